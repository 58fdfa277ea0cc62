"""Claims about what is refused before any image is encoded or any step is trained."""

import csv
from pathlib import Path

import pytest

from edje.cli import run
from edje.errors import EdjeError
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def world(tmp_path: Path) -> list[str]:
    return make_world(tmp_path)


def refused(overrides: list[str], said: str, root: Path) -> None:
    """The run ends with the message, no store of the training split, and no checkpoint."""
    with pytest.raises(EdjeError, match=said):
        run(overrides)
    assert not list(root.glob("cache/*-train/raw-*/shard-*"))
    assert not list(root.glob("run/checkpoints/*"))


def rename_split(root: Path, old: str, new: str) -> None:
    table = root / "data" / "captions.csv"
    rows = list(csv.reader(table.open(newline="")))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([[new if cell == old else cell for cell in row] for row in rows])


def test_an_evaluated_split_that_is_not_there(world: list[str], tmp_path: Path) -> None:
    refused(with_changes(world, "data.split=tset"), r"no split 'tset'", tmp_path)


def test_a_table_with_a_test_split_and_the_default_val(world: list[str], tmp_path: Path) -> None:
    rename_split(tmp_path, "val", "test")
    refused(world, r"no split 'val'.*test", tmp_path)


def test_an_unreadable_image_of_the_evaluated_split(world: list[str], tmp_path: Path) -> None:
    (tmp_path / "data" / "images" / "002.png").write_bytes(b"no picture")
    refused(world, r"images of split 'val' are not readable, such as 002\.png", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.dev_images=16", r"can't hold out 16 of the 16 images of split 'train'"),
        ("loader.batch_size=25", r"loader\.batch_size=25: folder has 24 captions to train on"),
        ("scoring.candidates=0", r"scoring\.candidates=0 \(int\): expected int above 0"),
        ("scoring.num_tokens=2", r"scoring\.num_tokens=2: the adapter is trained only with all"),
    ],
)
def test_numbers_that_the_data_or_the_model_can_t_meet(
    world: list[str], tmp_path: Path, change: str, said: str
) -> None:
    refused(with_changes(world, change), said, tmp_path)


@pytest.mark.parametrize("key", ["teacher", "start.path", "miner", "store"])
def test_a_path_to_nothing(world: list[str], tmp_path: Path, key: str) -> None:
    changes = [f"{key}={tmp_path / 'nowhere'}"]
    if key == "teacher":
        changes.append("objective=[matching,distillation]")
    if key == "start.path":
        changes.append("start=checkpoint")
    if key == "miner":
        changes.append("loader.neighbours=1")
    refused(with_changes(world, *changes), "nowhere", tmp_path)
    assert key == "store" or not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("joint.fusion_layer=7", r"joint\.fusion_layer=7: this language model has 2 layers"),
        ("joint.num_heads=5", r"not a multiple of the number of attention heads"),
        ("compile_training=fast", r"compile_training=fast: torch\.compile has no such backend"),
    ],
)
def test_a_model_that_can_t_be_built(
    world: list[str], tmp_path: Path, change: str, said: str
) -> None:
    refused(with_changes(world, change), said, tmp_path)
    assert not (tmp_path / "cache").exists()
