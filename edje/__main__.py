"""`python -m edje`: the command `edje`, also where its script isn't on the path."""

import sys

from edje.command import main

if __name__ == "__main__":
    sys.exit(main())
