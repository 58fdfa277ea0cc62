"""All figures of one run, drawn into its folder."""

import logging
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from edje.analysis.curves import loss_curves
from edje.analysis.gallery import gallery
from edje.analysis.recall import recall_bars
from edje.analysis.style import RC
from edje.errors import EdjeError

log = logging.getLogger(__name__)


def save_plots(run_folder: str | Path, *, examples: int = 8) -> list[Path]:
    """Draw all plots that the run folder has data for into its `plots/`; returns their paths.

    `losses.png`, `recall.png` and `gallery.png`, the last with `examples` queries.

    A plot whose data are missing is left out with a warning in the log; for the losses of a run
    without training, there is no warning.
    """
    folder = Path(run_folder)
    target = folder / "plots"
    target.mkdir(exist_ok=True)
    written = []
    drawings: dict[str, Callable[[], Figure]] = {
        "losses": lambda: loss_curves(folder),
        "recall": lambda: recall_bars(folder),
        "gallery": lambda: gallery(folder, examples=examples),
    }
    if not (folder / "checkpoints").is_dir():
        del drawings["losses"]
    for name, draw in drawings.items():
        try:
            figure = draw()
        except EdjeError as error:
            log.warning("No plot %s: %s", name, error)
            continue
        with matplotlib.rc_context(RC):
            figure.savefig(target / f"{name}.png")
        written.append(target / f"{name}.png")
    return written
