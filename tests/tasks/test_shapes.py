"""The embedded demo's claims, with the shipped backbone and teacher on fewer scenes."""

import json
from pathlib import Path

import pytest

from edje.cli import run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[str]:
    """Overrides that evaluate the shipped teacher on 200 scenes of the test split."""
    root = tmp_path_factory.mktemp("shapes")
    return [
        "task=evaluate",
        "checkpoint=edje/assets/shapes/teacher.ckpt",
        f"cache_dir={root}",
        "data.train_images=400",
        "data.val_images=4",
        "data.test_images=200",
        "data.unique_among=400",
        "evaluation.examples=4",
    ]


def evaluated(scenes: list[str], folder: Path, *changes: str) -> dict:
    run([*scenes, *changes, f"hydra.run.dir={folder}"])
    return json.loads((folder / "metrics.json").read_text())


def test_the_teacher_tells_siblings_apart_that_the_first_stage_confuses(scenes, tmp_path):
    metrics = evaluated(scenes, tmp_path / "run")
    for direction in ("t2i", "i2t"):
        gain = metrics[direction]["gain"]["recall@1"]
        assert gain["low"] > 0
    assert metrics["t2i"]["gain"]["recall@1"]["low"] > 15


def test_with_shuffled_tokens_the_gain_is_gone(scenes, tmp_path):
    metrics = evaluated(scenes, tmp_path / "run", "evaluation.shuffle_tokens=true")
    assert metrics["shuffled_tokens"] is True
    for direction in ("t2i", "i2t"):
        assert metrics[direction]["gain"]["recall@1"]["high"] < 0
