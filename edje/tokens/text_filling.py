"""Filling a table of embeddings batch by batch, in one process, so that a kill loses little."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from edje.durable import writing_to
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.matrix_file import MappedMatrix, rows_at_once
from edje.tokens.text import TABLE_FILE, write_chunks

Encode = Callable[[Int64[Tensor, "batch"]], Float[Tensor, "batch width"]]


def fill_table(
    folder: Path,
    fingerprint: Fingerprint,
    ids: Sequence[str],
    width: int,
    batches: Sequence[Int64[Tensor, "batch"]],
    encoding: AbstractContextManager[Encode],
    *,
    wait: bool = True,
) -> None:
    """Write an `EmbeddingTable` from encoded batches of rows, if there is none.

    Every row is in one of the batches. They are encoded in order, and finished batches are kept in
    the folder until all are done, so a killed run continues with the batch that it was at. If
    another process fills the table, this waits for it. `encoding` is only entered if there is work.

    Raises:
        EdjeError: the folder can't be written, or, with `wait` off, is being written.
        ValueError: an id is repeated, or `encode` returns another shape.
    """
    if (folder / TABLE_FILE).is_file():
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder, wait=wait):
        if (folder / TABLE_FILE).is_file():  # the other process has written it
            return
        order = torch.cat(list(batches))
        unfinished = folder / f"unfinished-{_order_digest(batches, width)}.f32"
        with writing_to(folder), encoding as encode:
            _encode_the_rest(unfinished, width, batches, encode)
        done = MappedMatrix(unfinished, 0, len(ids), width)
        places = order.argsort()
        chunks = map(done.read, places.split(rows_at_once(width)))
        write_chunks(folder, fingerprint, ids, width, chunks)
        for left in folder.glob("unfinished-*.f32"):
            left.unlink(missing_ok=True)


def _encode_the_rest(path: Path, width: int, batches: Sequence[Tensor], encode: Encode) -> None:
    """Encode the batches that the file lacks, and append them to it."""
    with path.open("ab", buffering=0) as file:
        rows = file.tell() // (4 * width)
        ends = list(accumulate(map(len, batches), initial=0))
        kept = max(number for number, end in enumerate(ends) if end <= rows)
        file.truncate(ends[kept] * 4 * width)  # a kill may leave a part of a batch
        for batch in batches[kept:]:
            encoded = encode(batch).to("cpu", torch.float32)
            if encoded.shape != (len(batch), width):
                raise ValueError(f"{tuple(encoded.shape)} for {len(batch)} rows of width {width}")
            left = encoded.contiguous().numpy().data.cast("B")
            while len(left):
                left = left[file.write(left) :]


def _order_digest(batches: Sequence[Tensor], width: int) -> str:
    """A short hash of the rows' order in an unfinished file."""
    facts = hashlib.sha256(f"{width} {[len(batch) for batch in batches]}".encode())
    for batch in batches:
        facts.update(batch.numpy().tobytes())
    return facts.hexdigest()[:12]
