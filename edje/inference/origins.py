"""What a reranker started from: plain values in its checkpoint, and a part of its model card."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edje.inference.location import SHIPPED, find_checkpoint, hub_name

OF_ITSELF = ("label", "licence", "notes", "started_from")  # of a checkpoint's fields


def origin(given: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a reranker that starts from this checkpoint keeps of it.

    `given` is the user's name for it, of which an absolute path's folders are left out; `fields`
    are the checkpoint's `edje`. What that one started from is under `started_from` again.

    Raises:
        EdjeError: there is no such checkpoint.
    """
    path = Path(given).expanduser()
    found = {"name": path.name if path.is_absolute() else given}
    if not path.exists() and given not in SHIPPED and (named := hub_name(given)):
        found["repository"] = named[0]
    with find_checkpoint(path).open("rb") as file:  # not sha256_of: a run's may have changed since
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        **found,
        "sha256": digest,
        **{name: fields[name] for name in OF_ITSELF if fields.get(name)},
    }


def ancestors(started_from: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a reranker started from, what that one started from, and so on."""
    while started_from:
        yield started_from
        started_from = started_from.get("started_from") or {}


def described(started_from: Mapping[str, Any]) -> Iterator[str]:
    """A line in Markdown for each ancestor, each followed by its maker's notes as a quotation."""
    for one in ancestors(started_from):
        licence = f"; licence: {one['licence']}" if one.get("licence") else ""
        place = ", which comes with edje" if one["name"] in SHIPPED else ""
        yield f"- `{one['name']}`{place}: trained on {one.get('label', 'unknown sets')}{licence};"
        yield f"  SHA-256 {one['sha256']}"
        if one.get("notes"):
            yield ""
            yield from (f"  > {line}".rstrip() for line in str(one["notes"]).splitlines())
            yield ""
