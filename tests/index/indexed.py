"""What is in an index, to be compared."""

import os
import unicodedata

from edje import ImageIndex

ODD = [
    "line\nbreak.png",
    'quote\'s "and" `more`.png',
    "back\\slash.png",
    "percent%20 #?&;$*.png",
    " space .png",
    "\t\x01\x7f.png",
    "emoji 🐕‍🦺.png",
    "-- drop table.png",
    os.fsdecode(b"not unicode \xff\xfe.png"),
    unicodedata.normalize("NFD", "é.png"),
]
COLUMNS = ("id", "path", "hash", "width", "height", "problem", "embedding", "cell")


def contents(index: ImageIndex) -> dict[str, dict]:
    """All that doesn't depend on when it was added, by id."""
    index.refresh()
    assert index._table is not None
    found = {}
    for batch in index._table.scan(COLUMNS):
        for row in batch.to_pylist():
            assert row["id"] not in found
            del row["_rowid"]
            found[row["id"]] = row
    return dict(sorted(found.items()))
