"""A reranker over an aligned backbone, trained by the command line, takes its towers along."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from edje import Reranker
from edje.cli import run
from edje.errors import EdjeError
from tests.tiny.encoders import tiny_language_model
from tests.tiny.towers import save_timm
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def make_towers(root: Path) -> tuple[Path, Path]:
    """A MobileNetV2 of random weights in a file, a sentence encoder of random ones in a folder."""
    weights = root / "tower.safetensors"
    save_timm(weights, "mobilenetv2_050", pad_type="same", num_classes=1001)
    words = tiny_language_model()
    words.encoder.save_pretrained(root / "sentences")
    words.tokenizer.save_pretrained(root / "sentences")
    return weights, root / "sentences"


def test_it_is_read_where_the_files_of_its_towers_are_gone(tmp_path: Path) -> None:
    tower, sentences = make_towers(tmp_path)
    overrides = [line for line in make_world(tmp_path) if "backbone.pretrained" not in line]
    run(
        with_changes(
            overrides,
            "backbone=mobilenetv2_aligned",
            f"backbone.checkpoint={tower}",
            "backbone.vision.model=mobilenetv2_050",
            "backbone.vision.image_size=64",
            f"backbone.text.pretrained={sentences}",
            "backbone.embedding_width=8",
            "backbone.epochs=2",
            "backbone.batch_size=8",
            "score=residual",
            "scoring.precision=fp32",
        )
    )
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
    tower.unlink()
    sentences.rename(tmp_path / "away")
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
