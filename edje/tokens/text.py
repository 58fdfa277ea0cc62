"""A small table of embeddings by id, such as the text features of all captions of a split."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edje.durable import force_to_disk, reading, replace_file, temporary_path, writing_to
from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.matrix_file import MappedMatrix, rows_at_once
from edje.tokens.store import REBUILD

TABLE_FILE = "table.json"  # written last: names the matrix file, its checksum and the ids


@dataclass(frozen=True)
class EmbeddingTable:
    """Ids and their embeddings, row by row; the embeddings stay in their file."""

    ids: tuple[str, ...]
    embeddings: MappedMatrix

    @property
    def matrix(self) -> Float32[Tensor, "ids width"]:
        """All embeddings, memory-mapped: what is read of them stays in memory."""
        return self.embeddings.whole

    @classmethod
    def write(
        cls,
        folder: str | Path,
        fingerprint: Fingerprint,
        ids: Sequence[str],
        matrix: Float32[Tensor, "ids width"],
    ) -> None:
        """Write a table, replacing an existing one; a kill leaves the old one or the new.

        Raises:
            EdjeError: the folder can't be written.
            ValueError: there are not as many ids as rows, or an id is repeated.
        """
        if len(ids) != len(matrix):
            raise ValueError(f"{len(ids)} ids ({len(set(ids))} unique) for {len(matrix)} rows")
        matrix = matrix.detach()
        width = matrix.shape[1]
        write_chunks(Path(folder), fingerprint, ids, width, matrix.split(rows_at_once(width)))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        expect: Fingerprint | None = None,
        *,
        rebuild: str = REBUILD,
    ) -> "EmbeddingTable":
        """Open a table after comparing its whole checksum; the embeddings are memory-mapped.

        Raises:
            EdjeError: there is none, it is damaged or unreadable, or it holds other embeddings than
                expected.
        """
        folder = Path(folder)
        try:
            with reading(folder):
                table = json.loads((folder / TABLE_FILE).read_bytes())
                fingerprint = Fingerprint(table["fingerprint"])
                differences = fingerprint.differences(expect) if expect else []
                checksum, ids, file = table["sha256"], tuple(table["ids"]), folder / table["file"]
                found = "" if differences else _sha256(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            if (folder / TABLE_FILE).is_file():  # a run would not write the table again
                raise _damaged(folder, str(error), rebuild) from None
            raise EdjeError(
                f"no complete embedding table at {folder} ({error}). Build it with: {rebuild}."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, f"{TABLE_FILE}: {error}", rebuild) from error
        if differences:
            raise EdjeError(
                f"the embedding table {folder} holds other embeddings than this run needs: "
                f"{'; '.join(differences)}. Build the right one with: {rebuild}."
            )
        if found != checksum:
            raise _damaged(folder, f"{file.name} has changed", rebuild)
        try:
            matrix = _mapped(file)
        except (KeyError, ValueError, SafetensorError) as error:
            raise _damaged(folder, str(error), rebuild) from error
        if len(matrix) != len(ids):
            raise _damaged(folder, f"{len(ids):,} ids for {len(matrix):,} rows", rebuild)
        return cls(ids, matrix)

    def rows_of(self, ids: Sequence[str]) -> Int64[Tensor, "rows"]:
        """Rows of ids.

        Raises:
            EdjeError: an id is not in the table.
        """
        missing = [key for key in ids if key not in self._row_of_id]
        if missing:
            raise EdjeError(
                f"the embedding table lacks {len(missing):,} of {len(ids):,} ids, such as "
                f"{missing[0]}. It was built from other data: build a new one with: {REBUILD}."
            )
        return torch.tensor([self._row_of_id[key] for key in ids], dtype=torch.int64)

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.ids)}


def write_chunks(
    folder: Path,
    fingerprint: Fingerprint,
    ids: Sequence[str],
    width: int,
    chunks: Iterable[Float32[Tensor, "some width"]],
) -> None:
    """Write a table whose embeddings come in consecutive chunks.

    Raises:
        EdjeError: the folder can't be written.
        ValueError: an id is repeated.
    """
    if len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids)} ids ({len(set(ids))} unique) for {len(ids)} rows")
    digest = hashlib.sha256()
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(folder / "matrix.safetensors")
        with _removed_at_the_end(temporary):
            with temporary.open("wb") as file:
                for part in _safetensors(len(ids), width, chunks):
                    digest.update(part)
                    file.write(part)
            force_to_disk(temporary)
            checksum = digest.hexdigest()
            name = f"matrix-{checksum[:12]}.safetensors"
            temporary.replace(folder / name)
        table = {
            "fingerprint": dict(fingerprint.fields),
            "file": name,
            "sha256": checksum,
            "ids": list(ids),
        }
        replace_file(folder / TABLE_FILE, json.dumps(table, indent=1, sort_keys=True).encode())
        for old in folder.glob("matrix-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)


@contextmanager
def _removed_at_the_end(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _safetensors(rows: int, width: int, chunks: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of `safetensors.torch.save({"matrix": …})`, which needs all of it in memory."""
    about = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    header = json.dumps({"matrix": about}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for chunk in filter(len, chunks):
        yield chunk.to("cpu", torch.float32).contiguous().numpy().data.cast("B")


def _mapped(path: Path) -> MappedMatrix:
    """The matrix of a file that safetensors accepts."""
    with safe_open(path, framework="pt") as file:
        matrix = file.get_slice("matrix")
        shape, dtype = matrix.get_shape(), matrix.get_dtype()
    if dtype != "F32" or len(shape) != 2:
        raise ValueError(f"{path.name} holds {dtype} of shape {shape}, expected F32 of two axes")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        begin, _ = json.loads(stream.read(length))["matrix"]["data_offsets"]
    return MappedMatrix(path, 8 + length + begin, *shape)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, problem: str, rebuild: str) -> EdjeError:
    return EdjeError(
        f"the embedding table {folder} is damaged: {problem}. "
        f"Delete the folder and build it again with: {rebuild}."
    )
