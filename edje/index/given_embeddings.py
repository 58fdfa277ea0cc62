"""Users' own embeddings of their pictures, from a NumPy or Parquet file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from edje.errors import EdjeError
from edje.index.given_pictures import GivenPicture, given_pictures, valid_id
from edje.index.image_table import EMBEDDING, GIVEN, ID, PATH, READABLE, ImageTable
from edje.inference.given_numbers import Numbers, given_numbers

SAME = 1e-5  # largest difference between numbers of one embedding when read again


@dataclass(frozen=True)
class GivenEmbeddings:
    """Pictures with their embeddings, L2-normalised in float32 on request."""

    pictures: list[GivenPicture]
    matrix: Any  # (pictures, width), perhaps on disk
    rows: Mapping[str, int]  # of the matrix, by id
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of values in one embedding."""
        return int(self.matrix.shape[1])

    def of(self, image_id: str) -> dict[str, Float32[np.ndarray, "width"]]:
        """A picture's embedding, as in the table's column."""
        values = np.asarray(self.matrix[self.rows[image_id]], dtype=np.float32)
        length = float(np.linalg.norm(values))
        if not np.isfinite(length) or length == 0:
            raise EdjeError(
                f"the embedding of {image_id!r} is zero or has numbers that are not finite. Leave "
                "the picture out, or compute it again."
            )
        return {GIVEN: values / length}

    def check(self, table: ImageTable) -> None:
        """Refuse a table that has other embeddings of these pictures.

        Raises:
            EdjeError: it has other ones, or none at all.
        """
        if table.facts.given_width != self.width:
            raise EdjeError(
                f"the index {table.folder} has {table.facts.given_width or 'no'} numbers of given "
                f"embeddings per picture, but these have {self.width}. Name a new folder."
            )
        for batch in table.scan([ID, GIVEN], READABLE):
            there = batch.column(GIVEN).flatten().to_numpy().reshape(-1, self.width)
            for name, values in zip(batch.column(ID).to_pylist(), there, strict=True):
                if name in self.rows and np.abs(self.of(name)[GIVEN] - values).max() > SAME:
                    raise EdjeError(
                        f"the index {table.folder} has another embedding of {name!r}. Name a new "
                        "folder for embeddings of another model."
                    )


def given_embeddings(
    source: str | Path | Numbers,
    paths: Sequence[str | Path] | None,
    ids: Sequence[str] | None,
) -> GivenEmbeddings:
    """Embeddings from a `.npy` file or an array with separate paths, or from a `.parquet`.

    A `.parquet` has the columns `path`, `embedding` and optionally `id`; all others are the
    user's.

    Raises:
        EdjeError: they can't be read, or their number isn't that of the pictures.
    """
    columns: dict[str, list[Any]] = {}
    if isinstance(source, str | Path) and Path(source).suffix == ".parquet":
        if paths is not None or ids is not None:
            raise EdjeError(f"{source}: paths and ids are in its columns. Leave them out.")
        matrix, columns = _of_parquet(Path(source).expanduser())
        paths, ids = columns.pop(PATH), columns.pop(ID, None)
    elif isinstance(source, str | Path):
        matrix = _of_numpy(Path(source).expanduser())
    else:
        matrix = source if isinstance(source, np.ndarray) else given_numbers(source, "embeddings")
    if isinstance(paths, str) or isinstance(ids, str):
        raise EdjeError("embeddings: got a text as paths or ids, expected a list of texts.")
    if any(one is None for some in (paths, ids) if some is not None for one in some):
        raise EdjeError("embeddings: a path or an id is missing (null). Give each picture both.")
    for row, path in enumerate(() if paths is None else paths):
        if not isinstance(path, str | Path):
            raise EdjeError(
                f"embeddings: got a {type(path).__name__} among paths (number {row}, from 0), "
                "expected the pictures' files. Write pictures in memory to files first."
            )
    if paths is None or (ids is not None and len(ids) != len(paths)):
        raise EdjeError(
            "embeddings need paths, the pictures' files in their order; ids, if any, likewise."
        )
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(matrix) != len(paths):
        raise EdjeError(
            f"embeddings of shape {tuple(matrix.shape)} and type {matrix.dtype} for {len(paths)} "
            "paths; expected floats of shape (pictures, width)."
        )
    names = [
        valid_id(Path(path).name if ids is None else str(ids[row]))
        for row, path in enumerate(paths)
    ]
    if len(set(names)) < len(names):
        raise EdjeError(
            f"{len(paths)} pictures and {len(set(names))} different ids; expected one each: ids=…, "
            "or a column id. By default an id is a file's name."
        )
    return GivenEmbeddings(
        given_pictures(dict(zip(names, map(Path, paths), strict=True))),
        matrix,
        {name: row for row, name in enumerate(names)},
        {key: dict(zip(names, values, strict=True)) for key, values in columns.items()},
    )


def _of_numpy(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise EdjeError(f"{path} can't be read as a NumPy array: {error}.") from error
    if not isinstance(found, np.ndarray):
        raise EdjeError(f"{path} holds several arrays; save the embeddings alone with numpy.save.")
    return found


def _of_parquet(path: Path) -> tuple[np.ndarray, dict[str, list[Any]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise EdjeError(f"{path} can't be read as Parquet: {error}.") from error
    if missing := {PATH, EMBEDDING} - set(table.schema.names):
        raise EdjeError(
            f"{path} has the columns {', '.join(table.schema.names)}; it lacks "
            f"{' and '.join(sorted(missing))}."
        )
    try:
        chunks = table.column(EMBEDDING).chunks  # one list of all holds 2**31 numbers at most
        lengths = {length for one in chunks for length in one.value_lengths().unique().to_pylist()}
        numbers = [np.asarray(one.flatten()) for one in chunks]
        matrix = np.concatenate(numbers).reshape(len(table), -1)
    except (AttributeError, ValueError, pa.ArrowException) as error:
        raise EdjeError(f"{path}: its column {EMBEDDING} holds no lists of one length.") from error
    if len(lengths) > 1 or None in lengths:
        raise EdjeError(f"{path}: its column {EMBEDDING} holds no lists of one length.")
    return matrix, table.drop_columns([EMBEDDING]).to_pydict()
