"""Milliseconds per query of each stage, with 1, 4 and 16 queries answered together.

python experiments/serving/stages.py photos.edje photos
"""

import itertools
import sys
import time

from edje import ImageIndex, Reranker
from edje.index.answers import Question

WHO = ("a man", "two dogs", "a woman", "children", "a girl", "a boy", "people", "a brown dog")
DOES = ("running", "jumping", "playing", "sitting")
ROUNDS, K = 30, 20


def main(path: str, name: str) -> None:
    """Measure and print."""
    index = ImageIndex.open(path, Reranker.from_pretrained(name))
    texts = itertools.cycle(f"{who} {does} on the grass" for who in WHO for does in DOES)

    def asked(count: int) -> list[Question]:
        return [Question(next(texts), K) for _ in range(count)]

    index.answers(asked(16))
    for count in (1, 4, 16):
        rounds, processor = [], []
        for _ in range(ROUNDS):
            questions, began = asked(count), time.process_time()
            seconds = index.answers(questions)[0].seconds
            processor.append(1000 * (time.process_time() - began) / count)
            rounds.append([1000 * value / count for value in vars(seconds).values()])
        least = [f"{min(column):.1f}" for column in zip(*rounds, strict=True)]
        shown = ", ".join(
            f"{name} {value}" for name, value in zip(vars(seconds), least, strict=True)
        )
        sys.stdout.write(f"{count:2} together: {shown}; processor {min(processor):.1f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
