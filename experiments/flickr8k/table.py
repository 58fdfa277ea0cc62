"""Recall of run folders over seeds, with the paired gain over the first stage.

    python experiments/flickr8k/table.py joint|final <run folder of each seed> …

One markdown row per direction and cutoff: the first stage, the score's mean over seeds, and the
gain, whose 95% interval is a bootstrap over images of the queries' mean over seeds.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from edje.analysis.lists import read_lists
from edje.records import DIRECTIONS
from edje.retrieval.intervals import paired_interval
from edje.retrieval.metrics import first_hit_ranks


def main(score: str, runs: list[Path]) -> None:
    """Print the rows."""
    stored = [read_lists(run) for run in runs]
    for way in DIRECTIONS:
        lists = [one[way].reranked for one in stored]
        images = torch.from_numpy(pd.factorize(stored[0][way].queries["image_id"])[0].copy())
        relevant = lists[0].first.relevant
        before = first_hit_ranks(lists[0].first.scores, relevant)
        after = [
            first_hit_ranks(one.joint if score == "joint" else one.final, one.first.relevant)
            for one in lists
        ]
        for k in (1, 5, 10):
            base = 100.0 * (before <= k)
            hits = torch.stack([100.0 * (ranks <= k) for ranks in after])
            gain = paired_interval(base, hits.mean(dim=0), images)
            each = " / ".join(f"{value:.1f}" for value in hits.mean(dim=1).tolist())
            print(  # noqa: T201  # the output of the script
                f"| {score} | {way} R@{k} | {base.mean():.1f} | {hits.mean():.1f} ({each}) | "
                f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}] |".replace("-", "−")
            )


if __name__ == "__main__":
    main(sys.argv[1], [Path(run) for run in sys.argv[2:]])
