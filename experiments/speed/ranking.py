"""Whether number formats rank like float32: the candidate lists of a run, scored again.

    python experiments/speed/ranking.py <run folder> <raw token store> --queries 500

Kendall's tau with float32's ranking is over the pairs of candidates of a query, averaged over
queries. `same best` is the share of queries with the same best candidate as float32.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from edje.inference.checkpoint import load_checkpoint
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.retrieval.rerank import share_of_ties
from edje.tokens.store import TokenStore

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def main() -> None:
    """Score, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("store")
    parser.add_argument("--queries", type=int, default=500)
    given = parser.parse_args()
    checkpoint = load_checkpoint(Path(given.run))
    store = TokenStore.open(given.store)
    queries = pd.read_parquet(f"{given.run}/queries.parquet").query("direction == 't2i'")
    queries = queries.iloc[:: max(len(queries) // given.queries, 1)]
    pairs = pd.read_parquet(f"{given.run}/candidates.parquet").query("direction == 't2i'")
    pairs = pairs.set_index("query_id").loc[queries["query_id"]]
    pool = len(pairs) // len(queries)

    images, different = pd.factorize(pairs["candidate_id"])
    with torch.inference_mode():
        rows = store.rows_of(list(different))
        visual = torch.cat([checkpoint.model.compress(store.read(part)) for part in rows.split(64)])
    text = tokenize(checkpoint.language_model.tokenizer, list(queries["text"]))
    at = torch.arange(len(queries)).repeat_interleave(pool)
    first = torch.tensor(pairs["first_stage"].to_numpy()).float()
    relevant = torch.tensor(pairs["relevant"].to_numpy()).view(-1, pool)

    exact = None
    print(f"{len(queries)} queries of {pool} candidates")  # noqa: T201
    print("format  R@1   R@5   tau     same best  ties    largest error / deviation")  # noqa: T201
    for name, precision in FORMATS.items():
        scorer = StoredTokenScorer(
            checkpoint.model, ScoringSet(text, visual), precision, as_given=True
        )
        scores = scorer("t2i", at, torch.tensor(images), first).view(-1, pool)
        exact = scores if exact is None else exact
        best = scores.argsort(dim=1, descending=True)
        hits = relevant.gather(1, best)
        same = (best[:, 0] == exact.argmax(dim=1)).float().mean()
        error = (scores - exact).abs().max() / exact.std()
        recalls = [100 * hits[:, :k].any(dim=1).float().mean() for k in (1, 5)]
        print(  # noqa: T201
            f"{name:6} {recalls[0]:5.1f} {recalls[1]:5.1f}  {tau(exact, scores):.4f}  "
            f"{100 * same:6.1f}%   {100 * share_of_ties(scores):.2f}%  {error:.3f}"
        )


def tau(left: torch.Tensor, right: torch.Tensor) -> float:
    """Kendall's tau (a tie is neither concordant nor discordant), the mean over rows."""
    signs = [(part[:, :, None] - part[:, None, :]).sign() for part in (left, right)]
    pool = left.shape[1]
    return float((signs[0] * signs[1]).sum(dim=(1, 2)).mean() / (pool * (pool - 1)))


if __name__ == "__main__":
    main()
