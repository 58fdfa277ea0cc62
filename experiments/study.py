"""The table of a study, from the folders of its sweeps: markdown, results.csv, figure.png.

    python experiments/study.py experiments/<study> <sweep folder> … [--reference <choice>]

Prints one row per choice; differences are relative to the first choice unless another is named.
"""

from argparse import ArgumentParser
from pathlib import Path

from edje.analysis import bracketed, study_plot, study_table


def main(study: Path, sweeps: list[Path], reference: str | None) -> None:
    """Print the table; write its figures and their plot into the study's folder."""
    table = study_table(sweeps, reference)
    print("| axis | choice | seeds | t2i R@1 | difference | i2t R@1 | difference |")  # noqa: T201
    print("|---" * 7 + "|")  # noqa: T201  # the output of the script
    for _, row in table.iterrows():
        figures = [
            bracketed(row, f"{way}{kind}", sign)
            for way in ("t2i", "i2t")
            for kind, sign in (("", ""), (".diff", "+"))
        ]
        cells = [row["axis"], f"`{row['choice']}`", str(row["seeds"]), *figures]
        print("|", " | ".join(cells), "|")  # noqa: T201
    table.round(2).to_csv(study / "results.csv", index=False)
    study_plot(table, study.name.capitalize()).savefig(study / "figure.png")


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--reference")
    main(**vars(parser.parse_args()))
