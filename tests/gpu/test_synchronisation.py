"""Claims about the places where a training step waits for the GPU."""

import traceback
import warnings
from collections import Counter
from typing import Any

import lightning as L
import pytest
import torch

import edje
from edje.training.callbacks import StepProgress
from edje.training.data_wait import DataWait
from edje.training.step_figures import StepFigures
from edje.training.throughput import Throughput
from tests.gpu.fitting import fit
from tests.gpu.sizes import RawTokens, needs_gpu, reranker

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
PACKAGE = next(iter(edje.__path__))
WATCHED = 3  # the step


class Watch(L.Callback):
    """Has torch warn of every wait from the start of one step to that of the next.

    What lies between steps is among it: figures that are logged and shown, the next batch.
    """

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if index == WATCHED else "default")


def test_a_step_waits_for_the_gpu_once_where_it_counts(raw: RawTokens, tmp_path):
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
            wait = DataWait()
            shown = [Throughput(wait), StepFigures(1e-3), StepProgress(clock=lambda: 0.0), wait]
            fit(reranker(), raw, tmp_path, steps=WATCHED + 2, callbacks=[Watch(), *shown])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    by_file: Counter[str] = Counter()
    for place, count in places.items():
        by_file[place.rpartition(":")[0] or place] += count
    assert by_file <= Counter({"training/counts.py": 1}), f"a step waits at {dict(places)}"
