"""What `edje index` and `task=index` do: sources into an index, and what came of it in words."""

from collections.abc import Callable
from pathlib import Path

from edje.errors import EdjeError
from edje.index.given_pictures import absolute
from edje.index.image_index import ImageIndex
from edje.index.image_table import ImageTable
from edje.index.indexing_choices import Indexing
from edje.index.ray_engine import Engine
from edje.inference.reranker import Reranker

RERANKER = "photos"  # of a new index, where none is named
SHOWN = 5  # files that can't be read
FRAGMENTS = 64  # from here on an addition ends by putting them together


def index_pictures(
    wanted: Indexing, say: Callable[[str], object], engine: Engine = "local"
) -> ImageIndex:
    """Add or synchronise, and say what was done, a line for each source.

    Raises:
        EdjeError: as `ImageIndex.add` and `sync`; or something isn't given.
    """
    if not wanted.source or not wanted.into:
        missing = "source" if not wanted.source else "into"
        raise EdjeError(
            f"index.{missing} is missing: task=index index.source=<folder> index.into=photos.edje"
        )
    if wanted.sync and engine != "local":
        raise EdjeError("index.sync=true goes with engine=local alone: add with Ray, then sync.")
    index = opened(wanted.into, wanted.reranker)
    for source in [wanted.source] if isinstance(wanted.source, str) else wanted.source:
        if wanted.sync:
            added = index.sync(source, prefix=wanted.prefix)
        else:
            added = index.add(source, prefix=wanted.prefix, engine=engine)
        say(f"{source}: {added}")
    if len(index) and index.stats().fragments >= FRAGMENTS:
        index.optimize()
    problems = index.problems()
    for problem in problems[:SHOWN]:
        say(f"  can't be read: {problem.id} ({problem.reason})")
    if len(problems) > SHOWN:
        say(f"  … and {len(problems) - SHOWN:,} more (index.problems())")
    return index


def opened(path: str, reranker: str | None) -> ImageIndex:
    """The index with a reranker: the named one, else its own, else the one for photographs."""
    folder = absolute(path)
    if reranker is None:
        table = ImageTable.open(folder)
        reranker = table.facts.reranker if table is not None else ""
    return ImageIndex.open(Path(path), Reranker.from_pretrained(reranker or RERANKER))
