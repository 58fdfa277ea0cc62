"""Python's garbage collector, kept from walking over what was loaded to stay."""

import atexit
import gc

NEW_OBJECTS = 50_000  # between collections; Python's own number is 700 or 2,000


def collect_rarely() -> None:
    """Collect garbage after more new objects than by default, and not at the end of the process.

    torch, transformers and LanceDB load 600,000 objects that stay. Collecting while they load takes
    over a fifth of the time to a first answer, and removing them one by one at the end as much.
    """
    gc.set_threshold(NEW_OBJECTS, 20, 100)
    atexit.register(gc.freeze)  # what is frozen isn't collected
