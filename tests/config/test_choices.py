"""Choices that are sound alone and don't fit each other are refused before anything is read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from edje.cli import run
from edje.config.choices import misfits
from edje.config.defaults import fill_defaults
from edje.config.locations import conf_folder, register_resolvers
from edje.config.overrides import forced
from edje.config.resolution import plain
from edje.config.validate import problems_of
from edje.errors import EdjeError

STREAMED = ["experiment=folder", "data=pretrain", "loader=stream"]


def told(*overrides: str) -> str:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("run", forced(list(overrides), conf_folder()))
    assert not problems_of(cfg)
    return "\n".join(map(str, misfits(plain(fill_defaults(cfg), "", []))))


def test_a_mixture_with_its_loader_and_a_dual_encoder_fits() -> None:
    assert told(*STREAMED) == ""
    assert told(*STREAMED, "data@data.evaluated=coco", "score=residual") == ""
    of_0_1_0 = ("resume=its folder", "data.evaluated.dev_images=0", "scoring.dev_every=10")
    assert told(*STREAMED, *of_0_1_0) == ""  # it scored nothing, and goes on so


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loader=default"], "loader: it reads stored tokens"),
        (["loader=neighbours"], "Take loader=stream"),
        (
            ["backbone=mobilenetv2_aligned", "backbone.checkpoint=x"],
            "backbone: its first stage is fitted on the stored",
        ),
        (["task=cache"], "task=cache: a mixture for pretraining is never read as a whole"),
        (["data.evaluated=null"], "data.evaluated=null: task=run scores a cached set"),
        (["data.evaluated=null", "task=train", "score=sum"], "score=sum: its weight is fitted"),
        (["data.evaluated.dev_images=0", "score=residual"], "score=residual: its scale is fitted"),
        (
            ["data.evaluated.dev_images=0", "scoring.dev_every=10"],
            "scoring.dev_every=10 scores images held back from training, and the mixture holds",
        ),
        (["start=canonical"], "start=canonical: it is computed from the stored tokens"),
        (["data=coco"], "loader streams a mixture, but data is a cached set"),
    ],
)
def test_what_does_not_fit_is_named_with_a_way_out(overrides: list[str], message: str) -> None:
    assert message in told(*STREAMED, *overrides)


def test_a_mixture_of_nothing_is_refused() -> None:
    names = ("coco", "visual_genome", "sbu", "cc3m", "cc12m")
    nothing = [f"data.sources.{name}=null" for name in names]
    assert "data.sources: all are left out" in told(*STREAMED, *nothing)
    assert told(*STREAMED, *nothing[1:]) == ""


def test_mining_neighbours_of_a_stream_is_an_unknown_key(tmp_path: Path) -> None:
    where = f"hydra.run.dir={tmp_path / 'run'}"
    with pytest.raises(EdjeError, match=r"loader\.neighbours=3 is unknown: StreamDataModule"):
        run([*STREAMED, "loader.neighbours=3", where])
    with pytest.raises(EdjeError, match=r"Choices that don't fit each other:\n  loader: it reads"):
        run([*STREAMED, "loader=default", where])
    assert not (tmp_path / "run").exists()


FOLDER = ["experiment=folder", "data.root=photos"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["score=sum", "data.dev_images=0"], "score=sum: its weight is fitted on images held back"),
        (
            ["scoring.dev_every=10", "data.dev_images=0"],
            "scoring.dev_every=10 scores images held back",
        ),
        (
            ["+scoring.patience=3"],
            "scoring.patience=3 counts scores on dev, and scoring.dev_every=0",
        ),
        (
            ["scoring.num_tokens=2"],
            "num_tokens=2: the adapter is trained only with all of its tokens",
        ),
        (
            ["adapter=compression_nested", "scoring.num_tokens=65"],
            "scoring.num_tokens=65: the adapter has only 64 tokens",
        ),
        (
            ["adapter=compression_nested", "adapter.num_tokens=128", "adapter.budgets=[8,64]"],
            "adapter.budgets=[8, 64]: the largest must be adapter.num_tokens=128, so that every "
            "token is trained. End the list with 128, or set adapter.num_tokens=64.",
        ),
        (
            ["adapter=compression_nested", "adapter.num_tokens=4", "adapter.budgets=[2,8]"],
            "the largest must be adapter.num_tokens=4",
        ),
        (
            ["loader=neighbours", "loader.batch_size=63"],
            "loader.batch_size=63 is not a multiple of loader.neighbours + 1 = ",
        ),
        (["seed=-1"], "seed=-1: expected a number from 0"),
        (
            ["loader=neighbours", "loader.neighbours=3", "loader.mined_pool=2"],
            "loader.neighbours=3: they are drawn from 2 similar images. Raise loader.mined_pool.",
        ),
        (["loader.batch_size=1"], "loader.batch_size=1: a pair of a batch can't have negatives"),
        (
            ["loader.batch_size=3", "negatives.count=3", "negatives.pool=3"],
            "have negatives.count=3",
        ),
    ],
)
def test_what_a_run_would_find_late_is_refused_at_once(overrides: list[str], message: str) -> None:
    assert message in told(*FOLDER, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["score=sum"],
        ["score=sum", "data.dev_images=0", "task=evaluate"],
        ["scoring.num_tokens=2", "task=evaluate"],
        ["+scoring.patience=3", "task=evaluate"],
        ["+scoring.patience=3", "scoring.dev_every=10"],
        ["adapter=compression_nested", "scoring.num_tokens=16"],
        ["adapter=compression_nested", "adapter.num_tokens=128"],
        ["adapter=compression_nested", "adapter.budgets=[64,8]"],
        ["adapter=compression_nested", "adapter.budgets=[8,32]", "task=evaluate"],
        ["adapter=compression_nested", "adapter.budgets=[8,32]", "resume=a run of 0.1.0"],
        ["loader.batch_size=1", "objective=[masked_language]"],
        ["loader.batch_size=1", "trainer.devices=8"],
        ["adapter=kmeans", "+adapter.iterations=0"],
    ],
)
def test_what_fits_is_let_through(overrides: list[str]) -> None:
    assert told(*FOLDER, *overrides) == ""


@pytest.mark.parametrize(
    "override",
    [
        "scoring.candidates=0",
        "scoring.batch_size=0",
        "scoring.num_tokens=0",
        "scoring.dev_every=-1",
        "scoring.examples=-1",
        "loader.batch_size=0",
        "loader.num_workers=-1",
        "loader.mined_pool=0",
        "storage.batch_size=0",
        "storage.num_workers=-1",
        "adapter.num_tokens=0",
        "adapter.hidden_width=0",
        "joint.num_layers=0",
        "benchmark.corpus=0",
        "checkpoint_every=0",
    ],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(override: str) -> None:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("run", [*FOLDER, "loader=neighbours", f"++{override}"])
    (problem,) = problems_of(cfg)
    assert str(problem).startswith(f"{override} (int): expected int ")
    assert ("from 0" if "-1" in override else "above 0") in str(problem)


@pytest.mark.parametrize("given", ["gradient_checkpointing=true", "compile_training=inductor"])
def test_layers_are_compiled_or_run_again_not_both(given: str) -> None:
    assert told(given) == ""
    both = told("gradient_checkpointing=true", "compile_training=inductor")
    assert (
        "gradient_checkpointing: with compile_training=inductor, dropout would be drawn differently"
        in both
    )
    assert told("task=evaluate", "gradient_checkpointing=true", "compile_training=inductor") == ""
