"""The command `edje` from a checkout: `python run.py [overrides]`; see `python run.py --help`.

Composes conf/run.yaml with the overrides, checks the whole configuration, makes a run folder and
starts the task (edje/tasks/): by default everything from images to a reranked recall table.
"""

import sys

from edje.command import main

if __name__ == "__main__":
    sys.exit(main())
