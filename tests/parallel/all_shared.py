"""The command line where even few pairs are shared out; each process leaves word of its share."""

import os
import sys
from pathlib import Path

from edje.cli import main
from edje.pipeline import scoring, shares

scoring.WORTH_SHARING = 0
score = shares.score


def noted(work, progress, share=(0, 1)):
    (Path(os.environ["BEGUN"]) / f"{share[0]} of {share[1]}").touch()
    return score(work, progress, share)


shares.score = noted

if __name__ == "__main__":
    sys.exit(main())
