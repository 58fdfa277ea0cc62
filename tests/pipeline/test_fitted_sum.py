"""Which images the weights of score=sum are fitted on after a training."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edje.inference.saved_folder import save_folder
from edje.pipeline import fitted_sum
from edje.pipeline.first_stage import FittedProjections
from edje.pipeline.fitted_sum import dev_to_fit_on
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import CheckpointStart
from edje.retrieval.fusion import Standardiser, SumFusion
from tests.tiny.bright_tower import BrightTower
from tests.tiny.rerankers import LOCAL, tiny_checkpoint

HELD_BACK = {"dev_images": 20, "dev_seed": 1}
OTHERS = "data, dev_images or dev_seed isn't its run's"
ACCEPTED = "there is no split for fitting one (not read here)"


def trained(config: str = "{}", **held_back: int) -> Checkpoint:
    return replace(tiny_checkpoint(), label="drawn train", config=config, held_back=held_back)


def refusal(checkpoint: Checkpoint, **changes: Any) -> str:
    """Why no images are found to fit on; those of the right ones can't be read."""

    def read(split: str) -> None:
        raise EdjeError("not read here")

    source: Any = SimpleNamespace(**{"name": "drawn", "read": read, **HELD_BACK, **changes})
    nothing: Any = None
    with pytest.raises(EdjeError, match=r"^score=sum: ") as caught:
        dev_to_fit_on(nothing, source, nothing, checkpoint)
    return str(caught.value)


def test_a_training_without_a_configuration_says_which_images_it_held_back(tmp_path: Path) -> None:
    checkpoint = trained(**HELD_BACK)
    save_checkpoint(checkpoint, tmp_path / "model.ckpt")
    save_folder(checkpoint, tmp_path / "saved")
    for place in ("model.ckpt", "saved"):
        loaded = load_checkpoint(tmp_path / place)
        assert loaded.held_back == HELD_BACK
        assert ACCEPTED in refusal(loaded)
    for changes in ({"dev_images": 19}, {"dev_seed": 2}, {"name": "another"}):
        assert OTHERS in refusal(checkpoint, **changes)


@pytest.mark.parametrize("config", ["data: {%s}", "data: {evaluated: {%s}, dev_images: 3}"])
def test_an_older_checkpoint_is_asked_by_its_configuration(tmp_path: Path, config: str) -> None:
    checkpoint = trained(config % "dev_images: 20, dev_seed: 1")
    save_checkpoint(checkpoint, tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    del content["edje"]["held_back"]
    torch.save(content, tmp_path / "model.ckpt")
    loaded = load_checkpoint(tmp_path / "model.ckpt")
    assert ACCEPTED in refusal(loaded)
    assert OTHERS in refusal(loaded, dev_images=19)


@pytest.mark.usefixtures("unchecked")
def test_a_start_brings_its_weights_of_the_sum_if_its_scores_and_first_stage_are_kept(
    tmp_path: Path,
) -> None:
    same = Standardiser(0.0, 1.0)
    own = {4: {"t2i": SumFusion(0.4, same, same), "i2t": SumFusion(0.0, same, same)}}
    towers: dict[str, Any] = {"backbone": {"backbone": "a tower", "layer": -2}}
    save_checkpoint(replace(trained(), fusion=own, **towers), tmp_path / "model.ckpt")
    nothing: Any = None
    members = {name: len for name in vars(FittedProjections) if not name.startswith("_")}
    aligned = SimpleNamespace(**members)

    def brought(new: Checkpoint, backbone: Any = nothing, **choices: Any) -> Any:
        start = CheckpointStart(path=str(tmp_path / "model.ckpt"), **choices)
        start.load(new, backbone, nothing)
        return start.sums

    new = replace(trained(), **towers)
    assert brought(new) == brought(new, first_stage="fitted") == brought(new, aligned) == own
    assert brought(new, aligned, first_stage="fitted") == {}
    other: dict[str, Any] = {"backbone": {"backbone": "another tower", "layer": -2}}
    assert brought(replace(new, **other)) == {}
    assert brought(replace(tiny_checkpoint(LOCAL), **towers)) == {}  # another adapter


@pytest.mark.parametrize("gains", [True, False])
def test_a_weight_of_nothing_is_told(
    gains: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    same = Standardiser(0.0, 1.0)
    weights = {"t2i": SumFusion(0.4, same, same), "i2t": SumFusion(0.4 * gains, same, same)}
    monkeypatch.setattr(fitted_sum, "first_stage_lists", lambda *_, **__: [])
    monkeypatch.setattr(fitted_sum, "rerank_collection", lambda *_, **__: ({},))
    monkeypatch.setattr(fitted_sum, "fusion_weights", lambda *_: weights)
    dev: Any = SimpleNamespace(split=SimpleNamespace(images=range(7)))
    cpu, backbone = torch.device("cpu"), BrightTower()
    found = fitted_sum.fitted_sums(trained(), backbone, dev, Scoring(), "bf16", [cpu])
    assert found == {4: weights}
    said = "on the 7 images held back, the reranker gains no more than chance over the first stage"
    assert (said in caplog.text) is not gains
    assert ("alone (weight 0): i2t with 4 tokens. Hold back more" in caplog.text) is not gains
    assert "t2i" not in caplog.text


@pytest.mark.parametrize("config", ["{}", "data: coco", "data: {dev_images: 20}", "a text"])
def test_a_checkpoint_that_does_not_say_it_is_refused_for_that(config: str) -> None:
    assert "it doesn't say which images its run held back" in refusal(trained(config))
    assert OTHERS in refusal(trained(config), name="another")
