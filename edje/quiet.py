"""Silence the libraries while a run shows its own progress."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import disable_progress_bars
from transformers.utils import logging as transformers_logging

TALKATIVE = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
    "tensorboardX",  # it warns about each metric name with an @
)


def quiet_libraries() -> None:
    """Leave the console to the run's own progress: no tips, no loading bars, no device notes."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Our reader gathers whole batches from memory maps, so workers rarely speed it up.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning checks for Slurm in every loop, even if its Trainer has another environment.
    warnings.filterwarnings("ignore", ".*The `srun` command is available.*")
    # Lightning on a newer torch than it knows.
    warnings.filterwarnings("ignore", ".*`isinstance.treespec, LeafSpec.` is deprecated.*")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and advice while a model loads; restore them afterwards."""
    level, had_bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bars:
            transformers_logging.enable_progress_bar()
