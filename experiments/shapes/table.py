"""The table of this study, from its run folders, as markdown.

python experiments/shapes/table.py runs/shapes_local/shipped runs/shapes/seeds …
"""

import sys
from pathlib import Path

from edje.analysis import bracketed, load_runs


def main(folders: list[Path]) -> None:
    """Print one row per run: recall of both stages and the paired gain, R@1 in both directions."""
    stages = ("first_stage", "reranked", "gain")
    columns = [f"{way}.{stage}.recall@1" for way in ("t2i", "i2t") for stage in stages]
    print("| run |", " | ".join(columns), "|")  # noqa: T201  # the output of the script
    print("|---" * (1 + len(columns)) + "|")  # noqa: T201
    for folder in folders:
        runs = load_runs(folder)
        for _, run in runs[runs["status"] == "done"].iterrows():
            name = folder if run["run"] == folder.name else folder / run["run"]
            print(f"| {name} |", " | ".join(bracketed(run, c) for c in columns), "|")  # noqa: T201


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
