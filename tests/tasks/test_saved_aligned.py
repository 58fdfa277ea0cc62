"""A reranker over an aligned backbone, trained by the command line, takes its towers along."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from edje import Reranker
from edje.cli import run
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, load_checkpoint
from edje.packaged import sha256_of
from tests.tiny.encoders import tiny_language_model
from tests.tiny.towers import save_timm
from tests.tiny.world import make_images, make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def make_towers(root: Path) -> tuple[Path, Path]:
    """A MobileNetV2 of random weights in a file, a sentence encoder of random ones in a folder."""
    weights = root / "tower.safetensors"
    save_timm(weights, "mobilenetv2_050", pad_type="same", num_classes=1001)
    words = tiny_language_model()
    words.encoder.save_pretrained(root / "sentences")
    words.tokenizer.save_pretrained(root / "sentences")
    return weights, root / "sentences"


def make_aligned_world(root: Path) -> list[str]:
    """Overrides of a run in a tiny world whose backbone is aligned."""
    tower, sentences = make_towers(root)
    return with_changes(
        [line for line in make_world(root) if "backbone.pretrained" not in line],
        "backbone=mobilenetv2_aligned",
        f"backbone.checkpoint={tower}",
        "backbone.vision.model=mobilenetv2_050",
        "backbone.vision.image_size=64",
        f"backbone.text.pretrained={sentences}",
        "backbone.embedding_width=8",
        "backbone.epochs=2",
        "backbone.batch_size=8",
    )


def test_it_is_read_where_the_files_of_its_towers_are_gone(tmp_path: Path) -> None:
    run([*make_aligned_world(tmp_path), "score=residual", "scoring.precision=fp32"])
    lists = pd.read_parquet(tmp_path / "run" / "candidates.parquet").query("direction == 't2i'")
    texts = pd.read_parquet(tmp_path / "run" / "queries.parquet").query("direction == 't2i'")
    places = pd.read_parquet(tmp_path / "run" / "images.parquet").set_index("image_id").path
    queries = lists.query_id.map(texts.set_index("query_id").text)
    pairs = list(zip(queries, lists.candidate_id.map(places), strict=True))
    reranker = Reranker.from_pretrained(tmp_path / "run", device="cpu")
    expected = reranker.predict(pairs, convert_to_tensor=True)
    of_run = torch.tensor(lists.final.to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(expected, of_run, rtol=0, atol=1e-3)

    reranker.save_pretrained(tmp_path / "saved")
    reranker.save_pretrained(tmp_path / "named", with_backbone=False)
    (tmp_path / "tower.safetensors").unlink()
    (tmp_path / "sentences").rename(tmp_path / "away")
    again = Reranker.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.checkpoint.first_stage  # its projections were fitted by the run
    found = again.predict(pairs, convert_to_tensor=True)
    assert torch.equal(found, expected) and found.unique().numel() > 10
    held = sorted(path.name for path in (tmp_path / "saved" / "backbone").iterdir())
    assert held == ["checkpoint.safetensors", "text.pretrained"]
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "backbone.vision, frozen: a local file, in `backbone/`" in card
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert about["run"]["backbone"]["_target_"] == "aligned"

    named = Reranker.from_pretrained(tmp_path / "named", device="cpu")
    with pytest.raises(EdjeError, match=r"tower\.safetensors' is not a file"):
        named.predict(pairs)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A world with a finished training, and the overrides of one that starts from it elsewhere."""
    root = tmp_path_factory.mktemp("aligned")
    overrides = make_aligned_world(root)
    run([*overrides, "task=train"])
    make_images(root / "other", 12)
    start = ["start=checkpoint", f"start.path={root / 'run' / 'pretrained'}"]
    changes = [f"data.root={root / 'other'}", "data.dev_images=2", "loader.batch_size=4"]
    changes += ["trainer.max_steps=1"]
    return root, [one for one in with_changes(overrides, *changes) if one != "start=fresh"] + start


def first_stage(checkpoint: Checkpoint) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in checkpoint.first_stage.values()])


def in_folder(overrides: list[str], folder: Path, *changes: str) -> list[str]:
    places = [f"hydra.run.dir={folder}", f"cache_dir={folder / 'cache'}"]
    return with_changes(with_changes(overrides, *places, "task=train"), *changes)


def test_a_training_that_starts_from_it_keeps_its_first_stage_unless_told_otherwise(
    begun: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, overrides = begun
    own = first_stage(load_checkpoint(root / "run"))
    run(in_folder(overrides, tmp_path / "kept"))
    assert torch.equal(first_stage(load_checkpoint(tmp_path / "kept")), own)
    said = "/run/pretrained are kept (start.first_stage=fitted fits them on this run's images)"
    assert capsys.readouterr().out.count(said) == 1
    assert not [*(tmp_path / "kept" / "cache").rglob("aligned-*")]  # nothing was fitted
    cache = f"cache_dir={tmp_path / 'kept' / 'cache'}"
    run(in_folder(overrides, tmp_path / "cached", cache, "task=cache"))
    assert not [*(tmp_path / "kept" / "cache").rglob("aligned-*")]
    assert capsys.readouterr().out.count(said) == 1
    run(in_folder(overrides, tmp_path / "fitted", "start.first_stage=fitted"))
    assert "fitted on this run's images; start.first_stage=fitted" in capsys.readouterr().out
    assert not torch.equal(first_stage(load_checkpoint(tmp_path / "fitted")), own)


def test_a_training_goes_on_with_the_first_stage_that_it_began_with(
    begun: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Also one of an earlier version, which had fitted it anew."""
    root, overrides = begun
    run(in_folder(overrides, tmp_path, "start.first_stage=fitted"))
    fitted = first_stage(load_checkpoint(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("first_stage: fitted", "first_stage: kept"))
    forget(tmp_path / "checkpoints" / "last.ckpt", "text_backbone", "started_from")
    run([f"resume={tmp_path}", "trainer.max_steps=2"])
    again = load_checkpoint(tmp_path)
    assert torch.equal(first_stage(again), fitted)
    assert not torch.equal(fitted, first_stage(load_checkpoint(root / "run")))


def forget(path: Path, *names: str) -> None:
    """Make a checkpoint one of a version that didn't write these fields."""
    content = torch.load(path, weights_only=True)
    for name in names:
        del content["edje"][name]
    torch.save(content, path)


def test_what_a_reranker_started_from_is_in_its_checkpoint_and_in_its_card(
    begun: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, overrides = begun
    base = Reranker.from_pretrained(root / "run", device="cpu")
    base.save_pretrained(tmp_path / "base", notes="Of *three* colours.", licence="cc-by-nc-4.0")
    changes: dict[str, Any] = {"first": tmp_path / "base", "second": tmp_path / "first"}
    for name, start in changes.items():
        run(in_folder(overrides, tmp_path / name, f"start.path={start}"))
    found = load_checkpoint(tmp_path / "second" / "pretrained").started_from
    assert found == load_checkpoint(tmp_path / "second").started_from
    assert (found["name"], found["label"]) == ("first", "folder train")
    earlier = found["started_from"]
    assert (earlier["name"], earlier["licence"]) == ("base", "cc-by-nc-4.0")
    assert earlier["sha256"] == sha256_of(tmp_path / "base" / "model.safetensors")
    assert "started_from" not in earlier
    card = (tmp_path / "second" / "pretrained" / "README.md").read_text()
    assert "trained on folder train, starting from first. An image" in card
    assert "## Started from\n\n- `first`: trained on folder train;" in card
    assert "- `base`: trained on folder train; licence: cc-by-nc-4.0;" in card
    assert "\n  > Of *three* colours.\n" in card and str(tmp_path) not in card
    assert "license: cc-by-nc-4.0" in (tmp_path / "base" / "README.md").read_text()
    assert "license:" not in card  # that is its maker's to say
