"""Claims about the places where a training step waits for the GPU."""

import traceback
import warnings
from collections import Counter
from typing import Any

import lightning as L
import pytest
import torch

import edje
from tests.gpu.fitting import fit
from tests.gpu.sizes import RawTokens, needs_gpu, reranker

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
PACKAGE = next(iter(edje.__path__))
WATCHED = 3  # the step
# How many words are masked is counted before they are gathered, as states and as labels, and how
# many negatives a batch can give before they are chosen.
ALLOWED = {"training/step.py": 2, "objectives/negatives.py": 1}


class Watch(L.Callback):
    """Has torch warn of every wait within one step, from its batch on the device to its end."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if index == WATCHED else "default")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_waits_for_the_gpu_only_where_masked_words_and_possible_negatives_are_counted(
    raw: RawTokens, tmp_path
):
    places: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
        if "synchronizing" in str(message):
            innermost = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "a library's own"
            places[innermost.removeprefix(f"{PACKAGE}/")] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            fit(reranker(), raw, tmp_path, steps=WATCHED + 2, callbacks=[Watch()])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    by_file: Counter[str] = Counter()
    for place, count in places.items():
        by_file[place.rpartition(":")[0] or place] += count
    assert by_file <= Counter(ALLOWED), f"a step waits at {dict(places)}"
