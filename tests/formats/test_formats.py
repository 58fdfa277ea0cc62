"""Claims about what former versions have written: it opens, and scores as it did."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edje.analysis import load_runs
from edje.cli import run
from tests.formats.opened import CODECS, KINDS, VERSIONS, decoded, deviation, scores

pytestmark = pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)


@pytest.mark.parametrize("codec", CODECS)
def test_a_store_gives_the_tokens_that_it_gave(folder: Path, codec: str) -> None:
    expected = load_file(folder / "expected.safetensors")[f"tokens.{codec}"]
    assert torch.equal(decoded(folder, codec), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_scores_that_it_gave(folder: Path, kind: str) -> None:
    expected = load_file(folder / "expected.safetensors")[f"scores.{kind}"]
    assert expected.std() > 1e-3
    unit = deviation(folder, kind)
    torch.testing.assert_close(scores(folder, kind) * unit, expected * unit, atol=1e-6, rtol=1e-5)


def test_a_run_folder_is_read_by_the_analysis(folder: Path) -> None:
    (row,) = load_runs(folder).to_dict("records")
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    reranked = metrics["t2i"]["reranked"]["recall@1"]
    assert row["t2i.reranked.recall@1"] == reranked["value"]
    assert row["score"] == "sum" and row["adapter.num_tokens"] == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_run_goes_on_under_this_version(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its configuration as it was written, from its last checkpoint, up to its metrics."""
    for part in ("run", "tower", "words"):
        shutil.copytree(folder / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    run(["resume=run", "trainer.max_steps=41"])
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 41
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["score"] == "sum" and metrics["num_images"] == 8
