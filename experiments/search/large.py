"""A query's parts at large sizes with random weights: python experiments/search/large.py [<rows>].

SigLIP2-L's text tower (24 layers, width 1,024), MiniLM-L12, 64 tokens of width 384 (49,152 bytes
per picture) in a table of 10,000 pictures, 100 candidates.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from edje.benchmark.models import random_reranker, random_text, random_text_encoder
from edje.benchmark.settings import Benchmark
from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.image_table import CELL, EMBEDDING, ImageTable, TableFacts
from edje.index.index_search import encoded_images
from edje.inference.scorer import PRECISIONS, ScoringSet, StoredTokenScorer
from edje.records import TextBatch
from edje.tokens.codec import make_codec

SIZES = Benchmark(text_encoder_width=1024, text_encoder_layers=24)
TOKENS, WORDS, CANDIDATES, BATCH, QUERIES = 64, 12, 100, 256, 15
WIDTH = SIZES.text_encoder_width


@torch.inference_mode()
def main(rows: int = 10_000, precision: str = "bf16") -> None:
    """Print the median milliseconds of each part over some queries."""
    codec = make_codec("bf16", TOKENS, SIZES.width)
    tower = random_text_encoder(SIZES)
    model = random_reranker(SIZES, TOKENS, 0)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        table = written(Path(scratch), rows, codec.cell_bytes)
        search = ExactFirstStage.of(table, EMBEDDING)
        visual = torch.randn(CANDIDATES, TOKENS, SIZES.width)
        text = random_text(SIZES, WORDS)
        whole = ScoringSet(TextBatch(text, torch.ones_like(text)), visual)
        scorer = StoredTokenScorer(model, whole, PRECISIONS[precision])
        pairs = torch.zeros(CANDIDATES, dtype=torch.long), torch.arange(CANDIDATES)
        for _ in range(QUERIES):
            times = [time.perf_counter()]
            query = tower(random_text(SIZES, SIZES.text_encoder_tokens)).pooler_output[0]
            times.append(time.perf_counter())
            found = next(search.best([Wanted(query, CANDIDATES)]))
            times.append(time.perf_counter())
            images = encoded_images(
                table.take(found.row_ids, ["id", "path", EMBEDDING, CELL]), codec
            )
            times.append(time.perf_counter())
            words = random_text(SIZES, WORDS)
            batch = ScoringSet(TextBatch(words, torch.ones_like(words)), images.tokens)
            scores = scorer.on(batch)("t2i", *pairs, found.scores)
            times.append(time.perf_counter())
            scores.argsort(descending=True, stable=True).tolist()
            times.append(time.perf_counter())
            names = ("text encoding", "first stage", "reading", "scoring", "sorting")
            for name, start, end in zip(names, times, times[1:], strict=False):
                taken.setdefault(name, []).append(1e3 * (end - start))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    total = sum(medians.values())
    for name, median in medians.items():
        say(f"{name}: {median:.2f} ms, {100 * median / total:.1f}% of {total:.0f}")


def written(folder: Path, rows: int, cell_bytes: int) -> ImageTable:
    """A table of random embeddings and cells."""
    draws = np.random.default_rng(0)
    table = ImageTable.create(folder, TableFacts({}, WIDTH, cell_bytes))
    for first in range(0, rows, BATCH):
        keys = range(first, min(first + BATCH, rows))
        embeddings = draws.normal(size=(len(keys), WIDTH)).astype(np.float32)
        cells = draws.normal(size=(len(keys), cell_bytes // 2)).astype(np.float16)
        table.write(
            [
                {"key": key, "id": f"{key}", "embedding": embedding, "cell": cell.tobytes()}
                for key, embedding, cell in zip(keys, embeddings, cells, strict=True)
            ],
            known=False,
        )
    return table


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
