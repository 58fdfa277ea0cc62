"""The stages of a training, each from the one before; neighbours mined by an earlier run."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from edje.cli import run
from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.records import DIRECTIONS
from tests.tiny.towers import make_siglip
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def stage(root):
    """Runs a stage's experiment in a tiny world; its objectives and adapter are its own."""
    tiny = [
        line
        for line in make_world(root)
        if line.split("=")[0]
        not in ("experiment", "name", "objective", "adapter.num_tokens", "teacher", "start")
    ]

    def train(name: str, *changes: str) -> Path:
        folder = root / name
        given = with_changes(
            [*tiny, "task=train", "data=folder", "trainer.max_steps=3"],
            *changes,
            f"hydra.run.dir={folder}",
        )
        run([f"experiment={name.split('_')[0]}", *given])
        return folder

    return train


def logged(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "logs" / "part_0" / "metrics.csv")


@pytest.fixture(scope="module")
def pretrained(stage) -> Path:
    return stage("pretrain")


def test_the_three_stages_follow_each_other(stage, root, pretrained):
    few = "adapter.num_tokens=4"
    plain = stage("distil_plain", f"teacher={pretrained}", few)
    run(
        [
            "task=compress",
            f"checkpoint={pretrained}",
            "data.split=train",
            f"hydra.run.dir={root / 'compressed'}",
        ]
    )
    distilled = stage("distil", f"teacher={pretrained}", few)
    said = "its adapter doesn't run"
    assert said in (distilled / "logs" / "run.log").read_text()
    assert said not in (plain / "logs" / "run.log").read_text()
    for name in ("train/distillation", "train/matching", "train/masked_language"):
        assert logged(distilled)[name].notna().all()
    torch.testing.assert_close(  # stored in bf16
        torch.tensor(logged(distilled)["train/distillation"]),
        torch.tensor(logged(plain)["train/distillation"]),
        rtol=0,
        atol=5e-3,
    )

    tuned = stage("finetune", f"start.path={distilled}", few)
    assert "fresh: nothing" in (tuned / "logs" / "run.log").read_text()
    assert {name for name in logged(tuned) if name in ("train/matching", "train/distillation")} == {
        "train/matching"
    }
    before, after = (load_checkpoint(folder).model for folder in (distilled, tuned))
    moved = [
        (a - b).abs().max().item()
        for a, b in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-4  # three steps of a warm-up to 2e-5


def test_fine_tuning_takes_a_teacher_too(stage, pretrained):
    folder = stage(
        "finetune_taught",
        "objective=[matching,distillation]",
        "adapter=local",
        f"teacher={pretrained}",
        f"start.path={pretrained}",
    )
    assert logged(folder)["train/distillation"].notna().all()


@pytest.mark.parametrize(
    ("name", "missing"),
    [("pretrain", "trainer.max_steps"), ("distil", "teacher"), ("finetune", "start.path")],
)
def test_a_stage_asks_for_the_one_before_and_for_its_length(name, missing):
    with pytest.raises(EdjeError, match=rf"{missing} has no value yet"):
        run([f"experiment={name}"])


MINED = ("loader.neighbours=1", "loader.mined_pool=3")


def test_neighbours_are_mined_by_the_first_stage_or_an_earlier_run_and_kept(
    stage, root, pretrained
):
    def lists() -> dict[str, torch.Tensor]:
        found = (root / "cache" / "folder-train").glob("mined-*.safetensors")
        return {path.name: load_file(path)["similar"] for path in found}

    stage("pretrain_mined", *MINED)
    (first,) = lists().values()
    assert first.shape == (12, 3)
    stage("pretrain_mined_again", *MINED, "seed=1")
    assert len(lists()) == 1
    stage("pretrain_mined_by", *MINED, f"miner={pretrained}")
    second = next(value for value in lists().values() if not torch.equal(value, first))
    assert len(lists()) == 2 and second.shape == (12, 3)
    for own, row in enumerate(second.tolist()):
        assert len({own, *row}) == 4
    with pytest.raises(EdjeError, match=r"has 0 similar images .* Raise loader.mined_margin"):
        stage("pretrain_margin", *MINED, "loader.mined_margin=-2.0")
    with pytest.raises(EdjeError, match=r"loader.neighbours=0 uses none"):
        stage("pretrain_unmined", f"miner={pretrained}")
    with pytest.raises(EdjeError, match=r"neighbours=3: they are drawn from 2 similar images"):
        stage("pretrain_pool", "loader.neighbours=3", "loader.mined_pool=2")


def test_a_miner_of_another_backbone_is_refused(stage, root, pretrained, tmp_path):
    other = make_siglip(tmp_path / "other", seed=1)
    with pytest.raises(EdjeError, match=r"miner=.* another backbone"):
        stage(
            "pretrain_other",
            *MINED,
            f"miner={pretrained}",
            f"backbone.pretrained={other}",
            f"cache_dir={tmp_path / 'cache'}",
        )


def test_the_first_stage_s_statistics_are_this_run_s_own(stage, root, pretrained, tmp_path):
    """Those of the weights it starts from belong to other data."""
    start = load_checkpoint(pretrained)
    assert not start.model.has_first_stage_statistics  # score=joint reads none
    assert not list(root.glob("cache/*/statistics-*"))
    alone = load_checkpoint(stage("pretrain_residual", "score=residual")).model
    (kept,) = root.glob("cache/folder-train/statistics-*.safetensors")
    written = kept.stat().st_mtime_ns
    for direction in DIRECTIONS:
        start.model.set_first_stage_statistics(direction, 7.0, 3.0)
    save_checkpoint(start, tmp_path / "elsewhere.ckpt")
    folder = stage(
        "pretrain_from_elsewhere",
        "start=checkpoint",
        f"start.path={tmp_path / 'elsewhere.ckpt'}",
        "score=residual",
    )
    assert "fresh: residual\n" in (folder / "logs" / "run.log").read_text()
    trained = load_checkpoint(folder).model
    torch.testing.assert_close(trained.first_stage_mean, alone.first_stage_mean)
    torch.testing.assert_close(trained.first_stage_deviation, alone.first_stage_deviation)
    assert trained.first_stage_mean.any() and (trained.first_stage_deviation != 1).all()
    assert kept.stat().st_mtime_ns == written  # computed once


def test_weights_of_another_backbone_or_layer_are_no_start(stage, pretrained, tmp_path):
    """Refused before anything is encoded or trained."""
    other = make_siglip(tmp_path / "other", seed=1)
    empty = f"cache_dir={tmp_path / 'cache'}"
    for change, differing in (
        (f"backbone.pretrained={other}", "weights"),
        ("backbone.layer=1", "layer"),
    ):
        with pytest.raises(EdjeError, match=rf"start.path=.* layer.* \(they differ in {differing}"):
            stage(
                f"finetune_{differing}", f"start.path={pretrained}", "adapter=local", change, empty
            )
    assert not (tmp_path / "cache").exists()
