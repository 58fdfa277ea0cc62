"""The work of `edje index` and `task=index`: sources into an index, with a report in words."""

from collections.abc import Callable
from pathlib import Path

from edje.errors import EdjeError
from edje.index.given_pictures import files_under
from edje.index.hits import on_one_line
from edje.index.image_index import ImageIndex
from edje.index.image_table import ImageTable, place_of
from edje.index.indexing_choices import Indexing
from edje.index.ray_engine import Engine
from edje.inference.reranker import Reranker

RERANKER = "photos"  # of a new index, by default
SHOWN = 5  # unreadable files to list
FRAGMENTS = 64  # an addition that leaves at least this many ends by merging them


def index_pictures(
    wanted: Indexing, say: Callable[[str], object], engine: Engine = "local"
) -> ImageIndex:
    """Add or synchronise, and report what was done, a line for each source.

    Raises:
        EdjeError: as `ImageIndex.add` and `sync`; or a required value is missing.
    """
    if not wanted.source or not wanted.into:
        missing = "source" if not wanted.source else "into"
        raise EdjeError(
            f"index.{missing} is missing: task=index index.source=<folder> index.into=photos.edje"
        )
    if wanted.sync and engine != "local":
        raise EdjeError("index.sync=true needs engine=local: add with Ray, then sync.")
    check_into(wanted.into)
    index = opened(wanted.into, wanted.reranker)
    for source in [wanted.source] if isinstance(wanted.source, str) else wanted.source:
        if wanted.sync:
            added = index.sync(source, prefix=wanted.prefix)
        else:
            added = index.add(source, prefix=wanted.prefix, engine=engine)
        say(f"{source}: {added}")
    if index.fragments >= FRAGMENTS:
        index.optimize()
    problems = index.problems()
    for problem in problems[:SHOWN]:
        say(f"  can't be read: {on_one_line(problem.id)} ({problem.reason})")
    if len(problems) > SHOWN:
        say(f"  … and {len(problems) - SHOWN:,} more (index.problems())")
    if problems and not len(index):
        raise EdjeError("none of these files can be read as a picture.")
    return index


def check_into(path: str) -> None:
    """Refuse a folder of pictures, where an index would lie among them.

    Raises:
        EdjeError: it has pictures, and no index.
    """
    place = place_of(path)
    is_other = isinstance(place, Path) and place.is_dir() and ImageTable.open(place) is None
    if is_other and (picture := next(files_under(Path(place)), None)):
        raise EdjeError(
            f"{path} is a folder of pictures ({picture.name}), not an index. Name a new folder for "
            "it: --into photos.edje"
        )


def check_there(path: str) -> None:
    """Refuse a path that has no index.

    Raises:
        EdjeError: there is none; says how to make it.
    """
    place = place_of(path)
    if isinstance(place, Path) and not place.is_dir():
        raise EdjeError(f"{path}: there is no index. Make it: edje index <folder> --into {path}")


def opened(
    path: str, reranker: str | None, device: str | None = None, precision: str | None = None
) -> ImageIndex:
    """The index with a reranker: the named one, else its own, else the one for photographs.

    Raises:
        EdjeError: it can't be opened, or the reranker can't be loaded.
    """
    own = ""
    if reranker is None:
        table = ImageTable.open(place_of(path))
        own = table.facts.reranker if table is not None else ""
    name = reranker or own or RERANKER
    try:
        found = Reranker.from_pretrained(name, device=device, precision=precision)
    except EdjeError as error:
        if not own:
            raise
        raise EdjeError(
            f"{error} The index {path} was built with this reranker; if it has moved, name its "
            "present place: --reranker <path>."
        ) from error
    return ImageIndex.open(path, found)
