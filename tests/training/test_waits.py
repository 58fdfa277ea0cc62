"""Where a training step waits for its device: counted on a CPU, by what would wait on a GPU."""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import edje
from edje.training.callbacks import StepProgress
from edje.training.data_wait import DataWait
from edje.training.development_recall import DevelopmentRecall
from tests.gpu.fitting import fit
from tests.gpu.sizes import LOCAL, RawTokens, reranker

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)
PACKAGE = next(iter(edje.__path__))
WATCHED = 2
ON_THE_HOST = (
    f"{PACKAGE}/objectives/draws.py",  # seeds, drawn on the CPU
    str(Path(torch.optim.__file__).parent),  # AdamW keeps its counts of steps on the CPU
)
GATHERS = "__getitems__"  # the data set, in memory of the host
WAITING = {"nonzero", "_local_scalar_dense", "masked_select", "is_nonzero", "equal", "argwhere"}
WAITING |= {"_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
READING = {"tolist", "numpy", "__array__"}  # a CPU's tensor needs no operator for that


def where() -> str:
    """The innermost place in our package, or in a library."""
    stack = traceback.extract_stack()
    known = [at for at in stack if at.filename.startswith((PACKAGE, *ON_THE_HOST))]
    if not known:
        return "a library's own"
    if known[-1].filename.startswith(ON_THE_HOST) or any(at.name == GATHERS for at in known):
        return "the host"
    return known[-1].filename.removeprefix(f"{PACKAGE}/")


class Operators(TorchDispatchMode):
    """Notes operators whose result's size, or effect on the program, depends on data."""

    def __init__(self, places: Counter[str]):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sized = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if masks or sized or name in WAITING:
            self.places[where()] += 1
        return func(*args, **(kwargs or {}))


class Readings(TorchFunctionMode):
    """Notes where a tensor becomes numbers by other ways than an operator."""

    def __init__(self, places: Counter[str]):
        super().__init__()
        self.places = places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING:
            self.places[where()] += 1
        return func(*args, **(kwargs or {}))


class Watch(L.Callback):
    """From the start of one step to that of the next: what lies between them too."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.modes: list[Any] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index == WATCHED:
            self.modes = [Operators(self.places), Readings(self.places)]
            for mode in self.modes:
                mode.__enter__()
        elif index == WATCHED + 1:
            for mode in reversed(self.modes):
                mode.__exit__(None, None, None)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawTokens:
    return RawTokens.written(tmp_path_factory.mktemp("raw") / "store")


LATE = {"fusion_layer": 2, "evidence": True, "evidence_layers": (1,), "residual": True}


@pytest.mark.parametrize(
    ("model", "terms", "batch"),
    [
        ({}, ("matching", "masked_language", "text_recovery", "distillation"), 6),
        ({}, ("matching", "distillation"), 2),  # fewer negatives than asked for
        (LATE, ("matching", "masked_language", "alignment"), 6),
    ],
)
def test_a_step_waits_once_where_it_counts(model, terms, batch, raw: RawTokens, tmp_path):
    watch = Watch()
    callbacks = [
        watch,
        DevelopmentRecall(lambda: torch.ones(1), lambda: None, 2, "dev/t2i_recall@1"),
        StepProgress(clock=lambda: 0.0),
        DataWait(),
    ]
    teacher = reranker(LOCAL) if "distillation" in terms else None
    fit(
        reranker(**model), raw, tmp_path, terms,
        steps=WATCHED + 2, precision="32-true", teacher=teacher, batch=batch, callbacks=callbacks,
    )  # fmt: skip
    del watch.places["the host"]
    assert dict(watch.places) == {"training/counts.py": 1}
