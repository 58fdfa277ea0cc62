"""The features of a split's captions: from the cache, or computed on the run's device."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from edje.backbones.protocol import TextEncoder
from edje.pipeline.devices import moved
from edje.records import RetrievalSplit
from edje.retrieval.exact import products_in
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.text import TABLE_FILE, EmbeddingTable
from edje.tokens.text_filling import Encode, fill_table

TEXT_BATCH = 256  # captions that the text tower reads at once


def caption_features(
    split: RetrievalSplit,
    texts: Sequence[str],
    encoder: TextEncoder,
    cache_dir: Path,
    dataset: str,
    device: torch.device,
    *,
    wait: bool = True,
) -> EmbeddingTable:
    """Features of the cleaned captions, in order.

    One process computes missing ones on the device, and the others wait for it.

    Raises:
        EdjeError: they can't be written, or, with `wait` off, another process is writing them.
    """
    ids = [caption.caption_id for caption in split.captions]
    digest = hashlib.sha256("\n".join([*ids, *texts]).encode()).hexdigest()
    fingerprint = Fingerprint({**encoder.text_identity(), "captions": digest})
    folder = store_folder(cache_dir, dataset, split.name, "text", fingerprint)
    if not (folder / TABLE_FILE).is_file():
        order = torch.tensor(sorted(range(len(texts)), key=lambda row: len(texts[row])))
        batches = order.split(TEXT_BATCH)  # of similar length
        encoding = _encoding(encoder, texts, device, split.name)
        fill_table(folder, fingerprint, ids, encoder.text_width, batches, encoding, wait=wait)
    return EmbeddingTable.open(folder, fingerprint)


@contextmanager
def _encoding(
    encoder: TextEncoder, texts: Sequence[str], device: torch.device, split_name: str
) -> Iterator[Encode]:
    """A function from rows to features, with the encoder on a device; on a GPU in TF32."""
    bar = tqdm(total=len(texts), desc=f"captions of {split_name}", unit="caption")
    with moved(encoder, device), products_in("tf32", device), bar:

        def encode(rows: Tensor) -> Tensor:
            features = encoder.encode_texts([texts[row] for row in rows.tolist()])
            bar.update(len(rows))
            return features

        yield encode
