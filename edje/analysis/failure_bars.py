"""What reranking fixed and broke as one chart: bars per group of captions."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from edje.analysis.failures import failures
from edje.analysis.style import BAD, GOOD, INK, QUIET, RC

FACTS = {"all": "all captions", "words": "words", "things": "things", "colours": "colours"}
FACTS |= {"relations": "spatial relations"}


def failure_bars(run_folder: str | Path, *, k: int = 1) -> Figure:
    """Shares of the captions that reranking fixed and broke, by what the captions mention.

    The values are those of `failures`; lines are 95% intervals over images. A fact with the same
    count in all captions has one bar.

    Raises:
        EdjeError: the run has no lists of text queries with their text.
    """
    table = failures(run_folder, k=k)
    places = -np.arange(len(table)) - 0.6 * (table["fact"] != table["fact"].shift()).cumsum()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.5, 1.3 + 0.32 * float(np.ptp(places))), layout="constrained")
        panel = figure.subplots()
        for name, colour in (("fixed", GOOD), ("broken", BAD)):
            sign = 1 if name == "fixed" else -1
            values = table[f"{name}.share"].to_numpy()
            ends = np.abs(table[[f"{name}.share.low", f"{name}.share.high"]].to_numpy().T - values)
            label = f"{name}: {table[name].iloc[0]:,} of {table['queries'].iloc[0]:,}"
            panel.barh(places, sign * values, 0.7, color=colour, label=label)
            panel.errorbar(
                sign * values,
                places,
                xerr=ends if sign > 0 else ends[::-1],
                fmt="none",
                ecolor=INK,
                elinewidth=1,
            )
        names = table["fact"].map(FACTS).where(table["group"] == "all", table["group"])
        names += table["fact"].map(lambda fact: "" if fact == "all" else f" {FACTS[fact]}")
        labels = [f"{name} ({n:,})" for name, n in zip(names, table["queries"], strict=True)]
        panel.set_yticks(places, labels, color=INK)
        panel.axvline(0, color=QUIET, linewidth=0.8)
        panel.xaxis.set_major_formatter(lambda share, _: f"{abs(share):g}")
        panel.set_xlabel("% of the group's captions: broken to the left, fixed to the right")
        hit = "the true image first" if k == 1 else f"the true image among the first {k}"
        panel.set_title(f"What reranking fixed and broke: {hit}")
        panel.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=2)
    return figure
