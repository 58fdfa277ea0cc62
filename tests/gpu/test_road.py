"""Claims about the whole road on a device: pictures, a store, training with dev, evaluation."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import edje
from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.data.shapes.shapes_source import ShapesSource
from edje.inference.checkpoint import AdapterSpecification
from edje.installed import asset
from edje.language_model import new_language_model
from edje.objectives.alignment import Alignment
from edje.objectives.distillation import Distillation
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.pipeline import Cache, Scoring, Training, cached_feed, finish, prepare, train_reranker
from edje.pipeline.sampled_searches import SMALLEST
from edje.training.optimisation import Optimisation
from tests.gpu.sizes import ACCELERATOR, DEVICE, needs_gpu

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.filterwarnings("ignore"),
]  # those of the libraries
CAPTIONS = 16 * 5


@pytest.mark.parametrize("score", ["residual", "sum"])
def test_a_run_trains_on_the_device_and_is_evaluated_there_as_on_the_cpu(
    score, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The device is given without its number."""
    source = ShapesSource(
        cache_dir=str(tmp_path),
        **{"train_images": 96, "val_images": 8, "test_images": 16, "unique_among": 8},
        dev_images=SMALLEST,
    )
    backbone = edje.load_backbone("shapes")
    cache, folder = Cache(tmp_path / "cache", devices=(DEVICE,)), tmp_path / "run"
    training = Training(
        language_model=partial(
            new_language_model, tokenizer=asset("shapes/backbone"), fusion_layer=2
        ),
        adapter=AdapterSpecification(
            "edje.models.adapters.TokenCompressionAdapter", {"num_tokens": 8, "hidden_width": 64}
        ),
        objectives={
            "alignment": Alignment(),
            "matching": Matching(),
            "masked_language": MaskedLanguage(),
            "distillation": Distillation(),
        },
        negatives=HardNegatives(count=3),
        optimisation=Optimisation(lr=1e-3, warmup_steps=1),
        loading=CachedLoading(batch_size=24, neighbours=3, mined_pool=3),
        scoring=Scoring(candidates=5, dev_every=2),
        score=score,
        teacher=asset("shapes/teacher.ckpt"),
        trainer={
            **{"max_steps": 4, "precision": "auto", "accelerator": ACCELERATOR, "devices": 1},
            "enable_progress_bar": False,
        },
    )
    prepared = prepare(training, backbone, source, folder)
    feed = cached_feed(cache, source, backbone, training, prepared)
    with caplog.at_level(logging.INFO, "edje"):
        trained = train_reranker(training, prepared, feed, backbone, cache, folder)
    assert any(said.startswith("training in precision") for said in caplog.messages)
    assert trained is not None
    reranker = finish(training, trained, backbone, feed.dev, cache, folder)
    assert reranker.calibration and bool(reranker.fusion) == (score == "sum")

    def recall(cache: Cache) -> dict[str, dict[str, float]]:
        scoring: Any = Scoring(candidates=10, precision="fp32")
        found = edje.evaluate(folder, source, backbone=backbone, cache=cache, scoring=scoring)
        return {
            side: {
                name: figure["value"]
                for name, figure in found[side]["reranked"].items()
                if name.startswith("recall")
            }
            for side in ("t2i", "i2t")
        }

    there, here = recall(cache), recall(Cache(cache.folder, devices=(torch.device("cpu"),)))
    assert there["t2i"].keys() == here["t2i"].keys() != set()
    for side, queries in (("t2i", CAPTIONS), ("i2t", 16)):
        for name, value in there[side].items():
            assert value == pytest.approx(here[side][name], abs=2 * 100 / queries), (side, name)
