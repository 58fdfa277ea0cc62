"""A small table of embeddings by id, such as the text features of all captions of a split."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from edje.durable import replace_file, writing_to
from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import REBUILD

TABLE_FILE = "table.json"  # written last: names the matrix file, its checksum and the ids


@dataclass(frozen=True)
class EmbeddingTable:
    """Ids and their embeddings, row by row."""

    ids: tuple[str, ...]
    matrix: Float32[Tensor, "ids width"]

    @classmethod
    def write(
        cls,
        folder: str | Path,
        fingerprint: Fingerprint,
        ids: Sequence[str],
        matrix: Float32[Tensor, "ids width"],
    ) -> None:
        """Write a table, replacing one that is there; a kill leaves the old one or the new.

        Raises:
            EdjeError: the folder can't be written.
            ValueError: there are not as many ids as rows, or an id comes twice.
        """
        folder = Path(folder)
        if len(ids) != len(matrix) or len(set(ids)) != len(ids):
            raise ValueError(f"{len(ids)} ids ({len(set(ids))} unique) for {len(matrix)} rows")
        content = save({"matrix": matrix.detach().to("cpu", torch.float32).contiguous()})
        checksum = hashlib.sha256(content).hexdigest()
        name = f"matrix-{checksum[:12]}.safetensors"
        table = {
            "fingerprint": dict(fingerprint.fields),
            "file": name,
            "sha256": checksum,
            "ids": list(ids),
        }
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / name, content)
            replace_file(folder / TABLE_FILE, json.dumps(table, indent=1, sort_keys=True).encode())
            for old in folder.glob("matrix-*.safetensors"):
                if old.name != name:
                    old.unlink(missing_ok=True)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        expect: Fingerprint | None = None,
        *,
        rebuild: str = REBUILD,
    ) -> "EmbeddingTable":
        """Read a table whole, checksum included.

        Raises:
            EdjeError: there is none, it is damaged, or it holds other embeddings than expected.
        """
        folder = Path(folder)
        try:
            table = json.loads((folder / TABLE_FILE).read_bytes())
            fingerprint = Fingerprint(table["fingerprint"])
            differences = fingerprint.differences(expect) if expect else []
            content = b"" if differences else (folder / table["file"]).read_bytes()
            checksum, ids = table["sha256"], tuple(table["ids"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EdjeError(
                f"no whole embedding table at {folder} ({error}). Build it with: {rebuild}."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, f"{TABLE_FILE}: {error}", rebuild) from error
        if differences:
            raise EdjeError(
                f"the embedding table {folder} holds other embeddings than this run needs: "
                f"{'; '.join(differences)}. Build the right one with: {rebuild}."
            )
        if hashlib.sha256(content).hexdigest() != checksum:
            raise _damaged(folder, f"{table['file']} has changed", rebuild)
        try:
            matrix = load(content)["matrix"]
        except (KeyError, SafetensorError) as error:
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
                f"{missing[0]}. It was built from other data: build one with: {REBUILD}."
            )
        return torch.tensor([self._row_of_id[key] for key in ids], dtype=torch.int64)

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.ids)}


def _damaged(folder: Path, problem: str, rebuild: str) -> EdjeError:
    return EdjeError(
        f"the embedding table {folder} is damaged: {problem}. "
        f"Delete the folder and build it again with: {rebuild}."
    )
