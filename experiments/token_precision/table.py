"""The table and figure of this study, from its sweep's folder.

python experiments/token_precision/table.py runs/token_precision/sweep

Prints markdown; writes results.csv and figure.png beside this file.
"""

import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from edje.analysis import load_runs
from edje.analysis.style import RC

CHOICES = {"tokens": "scoring.num_tokens", "codec": "storage.compressed_codec"}
BYTES = "storage_bytes_per_image"
RECALLS = {"t2i": "t2i.reranked.recall@1", "i2t": "i2t.reranked.recall@1"}


def results(sweep: Path) -> pd.DataFrame:
    """One row per choice: bytes per image and R@1 with its interval, in percent."""
    runs = load_runs(sweep)
    runs = runs[runs["status"] == "done"].sort_values([*CHOICES.values()])
    table = runs[[*CHOICES.values(), BYTES]].set_axis([*CHOICES, "bytes"], axis=1)
    for way, name in RECALLS.items():
        for end in ("", ".low", ".high"):
            table[f"{way}{end}"] = runs[f"{name}{end}"]
    return table.reset_index(drop=True)


def plot(table: pd.DataFrame) -> Figure:
    """t2i R@1 against bytes per image, one line per codec."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6, 4), layout="constrained")
        panel = figure.subplots()
        for codec, rows in table.groupby("codec"):
            ends = [rows["t2i"] - rows["t2i.low"], rows["t2i.high"] - rows["t2i"]]
            panel.errorbar(
                rows["bytes"], rows["t2i"], yerr=ends, marker="o", markersize=4, label=codec
            )
        panel.set_xscale("log", base=2)
        panel.set_xlabel("bytes per image, scales included")
        panel.set_ylabel("text to image R@1, %")
        panel.set_title("Recall against storage")
        panel.legend()
        panel.grid(axis="y")
    return figure


def main(sweep: Path) -> None:
    """Print the table; write its figures and their plot."""
    table = results(sweep)
    print("| tokens | codec | bytes per image | t2i R@1 | i2t R@1 |")  # noqa: T201
    print("|---|---|---|---|---|")  # noqa: T201  # the output of the script
    for _, row in table.iterrows():
        recalls = [
            f"{row[way]:.1f} [{row[f'{way}.low']:.1f}, {row[f'{way}.high']:.1f}]" for way in RECALLS
        ]
        cells = [f"{row['tokens']:.0f}", row["codec"], f"{row['bytes']:,.0f}", *recalls]
        print("|", " | ".join(cells), "|")  # noqa: T201
    here = Path(__file__).parent
    table.round(2).to_csv(here / "results.csv", index=False)
    plot(table).savefig(here / "figure.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
