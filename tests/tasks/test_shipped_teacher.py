"""Claims about the teacher that ships for data=shapes: it binds, and it reads the tokens for it."""

import json
from pathlib import Path

import pytest
import torch

import edje
from edje.cli import run
from edje.inference.checkpoint import find_checkpoint, read_checkpoint

TEACHER = Path(edje.__file__).parent / "assets" / "shapes" / "teacher.ckpt"
pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(not TEACHER.is_file(), reason="the teacher is not in this tree"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory: pytest.TempPathFactory):
    """Scores the teacher on 200 unseen scenes; returns the run's metrics."""
    root = tmp_path_factory.mktemp("teacher")

    def metrics(name: str, *changes: str) -> dict:
        run(
            [
                "task=evaluate",
                f"checkpoint={TEACHER}",
                f"cache_dir={root / 'cache'}",
                "data.train_images=40",
                "data.val_images=40",
                "data.test_images=200",
                f"hydra.run.dir={root / name}",
                *changes,
            ]
        )
        return json.loads((root / name / "metrics.json").read_text())

    return metrics


def test_it_beats_the_first_stage_by_far(evaluate) -> None:
    figures = evaluate("whole")
    assert figures["t2i"]["first_stage"]["recall@1"]["value"] < 40
    for direction in ("t2i", "i2t"):
        assert figures[direction]["gain"]["recall@1"]["low"] > 15


def test_with_the_tokens_of_other_images_the_gain_is_gone(evaluate) -> None:
    figures = evaluate("shuffled", "scoring.shuffle_tokens=true")
    for direction in ("t2i", "i2t"):
        gain = figures[direction]["gain"]["recall@1"]
        assert gain["low"] < 0 and gain["value"] < 3


def test_it_names_no_place_of_the_machine_that_trained_it() -> None:
    content = read_checkpoint(find_checkpoint(TEACHER))
    texts = [content["edje_config"], *map(str, content["edje"]["backbone"].values())]
    assert not any(str(part).startswith("/") for text in texts for part in text.split())
    assert TEACHER.stat().st_size < 10_000_000


def test_it_loads_with_weights_only() -> None:
    assert "state_dict" in torch.load(TEACHER, weights_only=True)
