"""Data sets of the hub, and folders written by `save_to_disk`, read through `datasets`."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError

from edje.data.sources.annotated import AnnotatedSource
from edje.data.sources.exported_images import export_images
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import AnnotatedImage, BadImages
from edje.data.sources.spelling import one_spelling
from edje.errors import EdjeError, first_line
from edje.records import RetrievalSplit


class HubSource(AnnotatedSource):
    """Reads images and captions from the columns of a data set.

    The encoded images of a split are written once, byte for byte, to `<cache_dir>/hub-<digest>/`,
    and are then read like all other image files. A row is an image with its captions; rows with
    the same id are one image, the first row's.

    Args:
        dataset: a name on the hub, a folder of data files, or one written by `save_to_disk`.
        subset: the configuration of a data set that has several.
        revision: branch, tag or commit on the hub.
        caption_columns: each holds a text or a list of texts.
        id_column: identifies images; null numbers the rows.
        split_column: names each row's split; null takes the data set's own splits.
        split_names: our names for split names of the data set.
    """

    image_keys: ClassVar[str] = "data.image_column"

    def __init__(
        self,
        *,
        name: str,
        dataset: str,
        subset: str | None = None,
        revision: str | None = None,
        cache_dir: str = "cache",
        image_column: str = "image",
        caption_columns: list[str],
        id_column: str | None = None,
        split_column: str | None = None,
        split_names: dict[str, str] | None = None,
        split: str = "test",
        bad_images: BadImages = "error",
        split_sizes: dict[str, int] | None = None,
        caption_counts: dict[str, int] | None = None,
        dev_images: int = 1000,
        dev_seed: int = 0,
    ) -> None:
        super().__init__(
            name=name,
            root=cache_dir,
            split=split,
            split_names=split_names,
            bad_images=bad_images,
            dev_images=dev_images,
            dev_seed=dev_seed,
            split_sizes=split_sizes,
            caption_counts=caption_counts,
        )
        self.dataset = dataset
        self.subset = subset
        self.revision = revision
        self.image_column = image_column
        self.caption_columns = tuple(caption_columns)
        self.id_column = id_column
        self.split_column = split_column

    def place(self, split: str | None = None) -> Path:
        """The data set's name or folder."""
        return Path(self.dataset)

    def read(self, split: str) -> RetrievalSplit:
        """One split, with its images written to the cache if they aren't there yet.

        Raises:
            EdjeError: data set, column or split is missing, or the cache can't be written.
        """
        locations = [location for image in self._images_of(split) for location in image.locations]
        folders = {str(Path(location).parent) for location in locations}
        images = {folder: self._images(Path(folder).name) for folder in sorted(folders)}
        origins = {
            f"{folder}/{row:08d}": Path(path)
            for folder, column in images.items()
            for row, path in enumerate(_paths(column))
            if path is not None
        }
        contents = {folder: partial(_content, column) for folder, column in images.items()}
        export_images(contents, locations, origins, self.root, self.name)
        return super().read(split)

    def annotate(self) -> Iterator[AnnotatedImage]:
        """The images of all splits, as in the columns.

        Raises:
            EdjeError: the data set can't be loaded, or a column is missing or holds no text.
        """
        captions: dict[tuple[str, str], ImageCaptions] = {}
        locations: dict[tuple[str, str], str] = {}
        for part, data in self._data.items():
            for number, row in enumerate(self._rows(part, data)):
                image_id = row[self.id_column] if self.id_column else f"{part}-{number:08d}"
                split = row[self.split_column] if self.split_column else part
                if image_id is None or split is None:
                    raise EdjeError(
                        f"{self.name}: {self.dataset}, {part}, row {number}: the column "
                        f"{self.id_column if image_id is None else self.split_column} is empty. "
                        "Set data.id_column or data.split_column to another, or to null."
                    )
                key = one_spelling(str(image_id)), self.our_name(str(split))
                locations.setdefault(key, f"{self._folder}/{part}/{number:08d}")
                said = captions.setdefault(key, ImageCaptions(key[0]))
                for column in self.caption_columns:
                    self._require_text(part, number, column, row[column])
                    said.add(row[column], f"{part}, row {number}, {column!r}")
        for (image_id, split), said in captions.items():
            yield AnnotatedImage(
                image_id,
                split,
                (locations[image_id, split],),
                tuple(said.texts),
                tuple(said.bad),
            )

    @cached_property
    def _data(self) -> dict[str, datasets.Dataset]:
        """The data set's own splits, by their own names."""
        folder = Path(self.dataset)
        saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
        try:
            if saved:
                loaded = _saved(folder)
            else:
                loaded = datasets.load_dataset(self.dataset, self.subset, revision=self.revision)
        except (OSError, LookupError, ValueError, RuntimeError, DatasetsError) as error:
            raise EdjeError(
                f"{self.name}: can't load the data set {self.dataset} ({first_line(error)}). Check "
                "data.dataset and data.subset, the connection, and access to it on the hub."
            ) from error
        if isinstance(loaded, datasets.Dataset):
            return {str(loaded.split or "train"): loaded}
        return {str(part): data for part, data in loaded.items()}

    @cached_property
    def _folder(self) -> str:
        """The name of the images' folder; different for other data under the same name."""
        facts = [f"{part} {data._fingerprint}" for part, data in sorted(self._data.items())]
        facts.append(self.image_column)
        return f"hub-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"

    def _rows(self, part: str, data: datasets.Dataset) -> Iterator[dict[str, Any]]:
        """The rows without their images."""
        read = {
            "caption_columns": self.caption_columns,
            "id_column": (self.id_column,) if self.id_column else (),
            "split_column": (self.split_column,) if self.split_column else (),
        }
        for key, columns in {"image_column": (self.image_column,), **read}.items():
            for column in columns:
                if column not in data.column_names:
                    raise EdjeError(
                        f"{self.name}: {self.dataset}, {part}, has no column {column!r}; it has "
                        f"{', '.join(data.column_names)}. Set data.{key}."
                    )
        chosen = dict.fromkeys(column for columns in read.values() for column in columns)
        content = data.with_format(None).select_columns(list(chosen))[:]
        for column, values in content.items():
            if isinstance(label := data.features[column], datasets.ClassLabel):
                content[column] = [None if v in (None, -1) else label.int2str(v) for v in values]
        return (
            dict(zip(content, values, strict=True))
            for values in zip(*content.values(), strict=True)
        )

    def _images(self, part: str) -> pa.ChunkedArray:
        """The images of a part by row, as `datasets` stores them: bytes or the path of a file.

        Raises:
            EdjeError: the column holds something else.
        """
        column = self._data[part].select_columns([self.image_column])
        try:
            column = column.cast_column(self.image_column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise EdjeError(
                f"{self.name}: {self.dataset}, {part}: the column {self.image_column!r} holds no "
                f"images ({first_line(error)}). Set data.image_column."
            ) from error
        return column.with_format("arrow")[:][self.image_column]

    def _require_text(self, part: str, number: int, column: str, value: Any) -> None:
        """Check that a value is text: a column has one type, so one other value shows a wrong one.

        Raises:
            EdjeError: it is not.
        """
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not isinstance(text, str):
                raise EdjeError(
                    f"{self.name}: {self.dataset}, {part}, row {number}: {column!r} holds "
                    f"{str(text)[:40]!r}, expected a text or a list of texts. "
                    "Set data.caption_columns."
                )


def _saved(folder: Path) -> datasets.Dataset | datasets.DatasetDict:
    """A data set that `save_to_disk` wrote, without its empty splits: `datasets` fails on these."""
    if not (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    parts = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    states = {part: json.loads((folder / part / "state.json").read_text()) for part in parts}
    full = [part for part, state in states.items() if state["_data_files"]]
    return datasets.DatasetDict(
        {part: datasets.load_from_disk(str(folder / part)) for part in full}
    )


def _paths(images: pa.ChunkedArray) -> list[str | None]:
    """The paths of the images that are files; their bytes aren't read."""
    no_bytes = pc.is_null(pc.struct_field(images, "bytes"))
    return pc.if_else(no_bytes, pc.struct_field(images, "path"), None).to_pylist()


def _content(images: pa.ChunkedArray, row: int) -> bytes | None:
    """The stored bytes of an image, or its file's; None if there are none."""
    image = images[row].as_py() or {"bytes": None, "path": None}
    if image["bytes"] is None and image["path"] and Path(image["path"]).is_file():
        return Path(image["path"]).read_bytes()
    return image["bytes"]
