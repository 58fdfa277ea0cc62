"""Claims about task=plan, through the command line's own entry."""

import json
from pathlib import Path

import pytest

from edje.cli import run
from edje.errors import EdjeError
from tests.tiny.encoders import encoder_config
from tests.tiny.towers import make_siglip
from tests.tiny.world import make_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def tiny(root: Path) -> list[str]:
    encoder_config().save_pretrained(root / "bert")
    return [
        *("task=plan", f"backbone.pretrained={make_siglip(root / 'siglip')}"),
        *(f"joint.pretrained={root / 'bert'}", f"hydra.run.dir={root / 'run'}"),
        *("trainer.max_steps=10", "loader.batch_size=8", f"cache_dir={root / 'cache'}"),
    ]


def test_a_row_of_the_paper_is_planned_from_its_options_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher, the images and the sources are not there yet."""
    run(["experiment=paper/tokens_64", "adapter.num_tokens=4", *tiny(tmp_path)])
    report = json.loads((tmp_path / "run" / "plan.json").read_text())
    lines = {line["what"]: line for line in report["lines"]}
    # 1,000 images of the test split, 16 tokens of 32 numbers in 16 bits
    assert lines["raw tokens, evaluated"]["value"] == 1000 * 16 * 32 * 2
    assert lines["compressed tokens, evaluated (task=compress)"]["value"] == 1000 * 4 * 32 * 2
    assert lines["train: teacher's adapter"]["value"] == 10 * 8 * 2 * 16 * (32 * 8192 + 8192 * 32)
    assert (
        "10 steps × 8 pairs of a device × 1 devices" in lines["train: vision tower"]["arithmetic"]
    )
    assert report["gpu_hours"] == report["flops"] / report["flops_per_second"] / 3600
    assert "GPU-hours" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_images_are_counted_in_the_files_where_no_option_says_how_many(tmp_path: Path) -> None:
    make_images(tmp_path / "data")
    folder = ("experiment=folder", f"data.root={tmp_path / 'data'}", "data.images=images")
    nodes = ("trainer.num_nodes=2", "trainer.devices=3")
    run([*folder, *nodes, "adapter.num_tokens=4", *tiny(tmp_path)])
    report = json.loads((tmp_path / "run" / "plan.json").read_text())
    lines = {line["what"]: line["arithmetic"] for line in report["lines"]}
    assert lines["encode images, train"].startswith("16 images × ")
    assert lines["encode captions, evaluated"].startswith("16 captions × ")
    assert "× 6 devices ×" in lines["train: adapter"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=shapes"], "task=plan only supports a CLIP or SigLIP of transformers"),
        (["experiment=pretrain"], "trainer.max_steps has no value yet"),
        (["experiment=folder", "data.root=nowhere"], "nowhere"),
        (
            ["experiment=paper/tokens_64", "trainer.max_steps=5", "trainer.devices=auto"],
            "trainer.devices=auto: task=plan needs a number of devices",
        ),
    ],
)
def test_what_cannot_be_counted_is_an_error_that_says_so(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(EdjeError, match=said):
        run([*overrides, "task=plan", f"hydra.run.dir={tmp_path / 'run'}"])
