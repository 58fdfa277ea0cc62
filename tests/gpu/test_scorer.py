"""Claims about scoring on a device, from tokens in host memory and on the device."""

import pytest
import torch
from torch import Tensor

from edje.errors import EdjeError
from edje.inference.device_cells import CellsOnDevice
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.models.edje import EDJE
from edje.records import TextBatch
from tests.gpu.sizes import (
    DEVICE,
    IS_REAL,
    ON_GPU,
    collection,
    needs_gpu,
    needs_real_gpu,
    packed,
    reranker,
)

pytestmark = pytest.mark.gpu
CAPTIONS, IMAGES, PAIRS = (64, 256, 600) if IS_REAL else (12, 9, 108)


@pytest.fixture(scope="module")
def model() -> EDJE:
    torch.manual_seed(0)
    return reranker(residual=True).to(DEVICE).eval()


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Captions, images and first-stage scores."""
    generator = torch.Generator().manual_seed(3)
    captions = torch.randint(CAPTIONS, (PAIRS,), generator=generator)
    images = torch.randint(IMAGES, (PAIRS,), generator=generator)
    return captions, images, torch.rand(PAIRS, generator=generator)


def as_trained(
    model: EDJE, stored: ScoringSet, pairs: tuple[Tensor, ...], precision: torch.dtype
) -> Tensor:
    """The training module's own scores on the device, padded and masked, under autocast."""
    scores = []
    half = precision != torch.float32
    for captions, images, first in zip(*(part.split(64) for part in pairs), strict=True):
        text = TextBatch(
            stored.text.input_ids[captions].to(DEVICE),
            stored.text.attention_mask[captions].to(DEVICE),
        )
        visual = stored.visual[images.to(stored.visual.device)].to(DEVICE)
        with torch.inference_mode(), torch.autocast(DEVICE.type, precision, enabled=half):
            scores.append(model.score(text, visual, "t2i", first.to(DEVICE)).float().cpu())
    return torch.cat(scores)


@pytest.mark.parametrize("place", ["cpu", DEVICE.type] if ON_GPU else ["cpu"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_stay_near_those_of_the_model_under_autocast(model, pairs, precision, place):
    """In float32 1e-4 of the scores' deviation; else mean squares below four times autocast's."""
    stored = collection(CAPTIONS, IMAGES, place)
    exact = as_trained(model, stored, pairs, torch.float32)
    scorer = StoredTokenScorer(model, stored, precision)
    assert scorer.transfer.is_pinned == (ON_GPU and place == "cpu")
    errors = scorer("t2i", *pairs) - exact
    assert exact.std() > 0.02  # the scores tell the pairs apart
    if precision == torch.float32:
        assert errors.square().mean().sqrt() < 1e-4 * exact.std()
    else:
        theirs = as_trained(model, stored, pairs, precision) - exact
        assert 0 < errors.square().mean() < 4 * theirs.square().mean()


@needs_gpu
def test_pinned_copies_on_a_stream_of_their_own_give_the_scores_of_tokens_on_the_device(
    model, pairs
):
    """Dozens of batches, of which two are on the way."""
    found = [
        StoredTokenScorer(model, collection(CAPTIONS, IMAGES, place), batch_size=8)("t2i", *pairs)
        for place in ("cpu", DEVICE)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def by_place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScoringSet]:
    """The same tokens as bytes in a store, in host memory and on the device, and as floats."""
    folder = tmp_path_factory.mktemp("compressed") / "store"
    cells, store = packed(CAPTIONS, IMAGES), packed(CAPTIONS, IMAGES, folder)
    floats = cells.visual.read(torch.arange(IMAGES))
    return {
        "store": store,
        "cells": cells,
        "bare store": ScoringSet(cells.text, store.visual.source),
        "cells on the device": ScoringSet(cells.text, CellsOnDevice.copied(cells.visual, DEVICE)),
        "floats": ScoringSet(cells.text, floats),
        "floats on the device": ScoringSet(cells.text, floats.to(DEVICE)),
    }


PLACES = ("store", "bare store", "cells", "cells on the device", "floats")


@pytest.mark.parametrize("place", PLACES)
def test_stored_bytes_give_the_scores_of_the_floats_that_they_stand_for(
    model, pairs, by_place, place
):
    """Dozens of batches, through memory that is used again."""
    found, expected = (
        StoredTokenScorer(model, by_place[one], batch_size=8)
        for one in (place, "floats on the device")
    )
    assert found.transfer.is_pinned == (ON_GPU and not place.endswith("device"))
    assert not expected.transfer.is_pinned
    for _ in range(2):
        torch.testing.assert_close(found("t2i", *pairs), expected("t2i", *pairs), rtol=0, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("place", [*PLACES, "floats on the device"])
def test_nothing_waits_for_the_gpu_from_one_call_to_the_next(model, pairs, by_place, place):
    scorer = StoredTokenScorer(model, by_place[place], torch.bfloat16, batch_size=64)
    expected = scorer("t2i", *pairs)  # what the libraries set up at first
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores = [scorer.launch("t2i", *pairs) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for found in scores:
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@needs_gpu
def test_nothing_waits_for_the_gpu_with_a_language_model_that_is_no_bert(pairs):
    model = reranker(family="modernbert").to(DEVICE).eval()
    scorer = StoredTokenScorer(model, collection(CAPTIONS, IMAGES), batch_size=64)
    expected = scorer("t2i", *pairs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores = scorer.launch("t2i", *pairs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(scores.cpu(), expected, rtol=0, atol=1e-5)


@needs_real_gpu
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_graphs_give_the_scores_of_plain_layers_whatever_the_order_of_shapes(model, compiling):
    """Numbers of pairs come and come back: no replay may read another's memory."""
    stored = collection(40, 64)
    plain, graphs = (
        StoredTokenScorer(model, stored, torch.bfloat16, compiled=compiled)
        for compiled in (False, True)
    )
    for count in (16, 50, 16):
        asked = (torch.zeros(count, dtype=torch.long), torch.arange(count), torch.zeros(count))
        expected, found = plain("t2i", *asked), graphs("t2i", *asked)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1 * float(expected.std()))


@needs_gpu
def test_int8_is_refused(model):
    with pytest.raises(EdjeError, match="precision int8: its products need a CPU"):
        StoredTokenScorer(model, collection(12, 9), torch.int8)
