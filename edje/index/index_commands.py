"""`edje index <folder> --into photos.edje` and `edje search photos.edje "…"`."""

import io
import json
import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable
from typing import Any

from edje.errors import EdjeError
from edje.index.hits import Hit
from edje.index.indexing import RERANKER, check_there, index_pictures, opened
from edje.index.indexing_choices import Indexing
from edje.inference.text_image_pairs import check_query


def run(arguments: list[str]) -> None:
    """Run `index …` or `search …`.

    Raises:
        EdjeError: as `ImageIndex`.
    """
    chosen = parser().parse_args(arguments)
    chosen.run(chosen)


def parser() -> ArgumentParser:
    """The arguments of both commands."""
    both = ArgumentParser(prog="edje", allow_abbrev=False)
    commands = both.add_subparsers(required=True, metavar="index|search")
    index = commands.add_parser("index", help="add pictures to an index", allow_abbrev=False)
    index.set_defaults(run=add)
    index.add_argument("source", nargs="+", help="folders, files, tars, Parquet files")
    index.add_argument("--into", required=True, metavar="FOLDER", help="the index: photos.edje")
    index.add_argument("--prefix", help="put before the ids, if some would clash")
    index.add_argument(
        "--sync", action="store_true", help="remove what came from the folders and is gone"
    )
    search = commands.add_parser("search", help="search an index", allow_abbrev=False)
    search.set_defaults(run=answer)
    search.add_argument("index", help="the index: photos.edje")
    search.add_argument("query", nargs="?", help="a text; by default, one per line of the input")
    search.add_argument("--top", type=positive, default=10, help="hits at most (10)")
    search.add_argument("--k", type=positive, default=100, help="pictures to rerank (100)")
    search.add_argument("--where", help="a filter over the columns: \"id LIKE 'rome/%%'\"")
    search.add_argument("--min-probability", type=float, help="leave out less probable hits")
    search.add_argument(
        "--group-duplicates", action="store_true", help="one hit for near duplicates"
    )
    search.add_argument("--json", action="store_true", help="a line of JSON for each hit")
    for command in (index, search):
        command.add_argument(
            "--reranker", help=f"name or path (by default the index's; for a new one {RERANKER})"
        )
    return both


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def add(chosen: Namespace) -> None:
    """Add or synchronise, and print what was done."""
    wanted = Indexing(
        source=chosen.source,
        into=chosen.into,
        reranker=chosen.reranker,
        prefix=chosen.prefix,
        sync=chosen.sync,
    )
    index = index_pictures(wanted, lambda line: sys.stderr.write(f"{line}\n"))
    sys.stdout.write(f"{chosen.into}: {len(index):,} pictures\n")


def answer(chosen: Namespace) -> None:
    """Print the hits of a query, or of each line of the input.

    Raises:
        EdjeError: as `ImageIndex.search`; bad lines of the input are told when they come, and
            counted at its end.
    """
    check_there(chosen.index)
    index = opened(chosen.index, chosen.reranker)
    are_read, bad = chosen.query is None, 0
    for query in asked() if are_read else [chosen.query]:
        if are_read:
            try:
                check_query(query)
            except EdjeError as error:
                sys.stderr.write(f"{error}\n")
                bad += 1
                continue
            if not chosen.json:
                sys.stdout.write(f"{query}\n")
        hits = index.search(
            query,
            chosen.k,
            chosen.top,
            chosen.where,
            chosen.min_probability,
            chosen.group_duplicates,
        )
        for hit in hits:
            sys.stdout.write(f"{as_json(query, hit) if chosen.json else hit}\n")
        if not hits:
            sys.stderr.write("nothing found\n")
        sys.stdout.flush()
    if bad:
        raise EdjeError(f"{bad} of the input's lines could not be searched for, see above.")


def as_json(query: str, hit: Hit) -> str:
    """A hit with its query as an object of JSON, which has no NaN and no infinity: null."""
    facts = {"query": query, **vars(hit)}
    return json.dumps(_finite(facts), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    """A value, with None for the numbers in it that are not finite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def asked() -> Iterable[str]:
    """Queries from the input, with a prompt if it is a terminal."""
    is_typed = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # such a line is refused, not the input
    while True:
        if is_typed:
            sys.stderr.write("search: ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
