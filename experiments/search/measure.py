"""The cost and recall of a search over photographs.

python experiments/search/measure.py <reranker> <folder of images> <Karpathy's JSON> <split>

Adding a split's pictures compared with only encoding them, the parts of a query, and recall of the
first stage and of the search, with the first caption of each picture as query.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edje import ImageIndex, Reranker
from edje.index.exact_first_stage import Wanted
from edje.index.index_search import encoded_images

TIMED = 300  # pictures that are added and encoded, in turns
ROUNDS = 3


def main(name: str, images: str, annotations: str, split: str) -> None:
    """Measure everything and print it."""
    rows = [row for row in json.loads(Path(annotations).read_text())["images"]]
    rows = [row for row in rows if row["split"] == split]
    paths = [Path(images) / row["filename"] for row in rows]
    reranker = Reranker.from_pretrained(name)
    with tempfile.TemporaryDirectory() as scratch:
        adding(reranker, paths[:TIMED], Path(scratch))
        index = ImageIndex.open(Path(scratch) / "all.edje", reranker)
        say(index.add(paths, show_progress_bar=False))
        queries = [row["sentences"][0]["raw"] for row in rows]
        parts(index, reranker, queries)
        found(index, queries, [path.name for path in paths])


def adding(reranker: Reranker, paths: list[Path], scratch: Path) -> None:
    """`add` and `encode` of the same files in turns: wall-clock and CPU seconds."""
    reranker.encode(paths[:32])
    taken: dict[str, list[tuple[float, float]]] = {"encode": [], "add": []}
    for turn in range(ROUNDS):
        index = ImageIndex.open(scratch / f"{turn}.edje", reranker)
        for name, work in (
            ("encode", lambda: reranker.encode(paths, show_progress_bar=False)),
            ("add", lambda index=index: index.add(paths, show_progress_bar=False)),
        ):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    for name, times in taken.items():
        wall, processor = (statistics.median(one) for one in zip(*times, strict=True))
        say(f"{name}: {len(paths)} pictures, {wall:.1f} s, {processor:.1f} s of processors")


def parts(index: ImageIndex, reranker: Reranker, queries: list[str]) -> None:
    """Milliseconds of each part of a query, median over 50 queries."""
    index.search(queries[0])
    search = index._search
    taken: dict[str, list[float]] = {}

    def timed(name: str, work: Callable):
        start = time.perf_counter()
        result = work()
        taken.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    columns = ["id", "path", "embedding", "cell"]
    for query in queries[:50]:
        text = timed("text encoding", lambda query=query: reranker.encode_text([query])[0])
        best = timed(
            "first stage", lambda text=text: next(search.first_stage.best([Wanted(text, 100)]))
        )
        images = timed(
            "reading",
            lambda ids=best.row_ids: encoded_images(search.table.take(ids, columns), search._codec),
        )
        timed(
            "scoring",
            lambda query=query, images=images, first=best.scores: reranker.score_images(
                query, images, first
            ),
        )
        timed("whole query", lambda query=query: index.search(query))
    for name, times in taken.items():
        say(f"{name}: {statistics.median(times):.1f} ms (least {min(times):.1f})")


def found(index: ImageIndex, queries: list[str], ids: list[str]) -> None:
    """Recall of the first stage and of the search, in percent."""
    ranks: dict[str, list[float]] = {"first stage": [], "search": []}
    for query, right in zip(queries, ids, strict=True):
        hits = index.search(query, top=100)
        place = {hit.id: row + 1 for row, hit in enumerate(hits)}
        first = {hit.id: hit.rank for hit in hits}
        ranks["first stage"].append(first.get(right, float("inf")))
        ranks["search"].append(place.get(right, float("inf")))
    for name, of_all in ranks.items():
        recall = (
            f"R@{k} {100 * sum(r <= k for r in of_all) / len(of_all):.1f}" for k in (1, 5, 10)
        )
        say(f"{name}: {', '.join(recall)} of {len(of_all)} queries")


def say(line: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
