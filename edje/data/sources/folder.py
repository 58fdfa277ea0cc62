"""Your own images: a folder with a table of captions."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from edje.data.sources.annotated import AnnotatedSource
from edje.data.sources.assembly import require_root
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import AnnotatedImage, BadImages
from edje.data.sources.spelling import as_text, one_spelling
from edje.data.sources.tables import table_rows
from edje.errors import EdjeError

TABLES = ("captions.csv", "captions.jsonl", "captions.json")


class FolderSource(AnnotatedSource):
    """Reads images and a captions table, `.csv`, `.jsonl` or `.json`, from one folder.

    `captions` is the table's name; null takes whichever of captions.csv, captions.jsonl and
    captions.json exists. The table has the columns `image` (path relative to `images`), `caption`
    and optionally `split`. An image with several captions has several rows (in JSON, `caption`
    may be a list). Without a split column, `val_share` of the images, fixed by `dev_seed`, become
    the split val and the others train. Image ids are the paths in the table, in `one_spelling`.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        captions: str | None = None,
        images: str = ".",
        image_column: str = "image",
        caption_column: str = "caption",
        split_column: str = "split",
        val_share: float = 0.2,
        split: str = "val",
        split_names: dict[str, str] | None = None,
        bad_images: BadImages = "error",
        dev_images: int = 100,
        dev_seed: int = 0,
    ) -> None:
        if not 0 <= val_share <= 1:
            raise EdjeError(f"data.val_share={val_share}: expected a share between 0 and 1.")
        super().__init__(
            name=name,
            root=root,
            split=split,
            split_names=split_names,
            bad_images=bad_images,
            dev_images=dev_images,
            dev_seed=dev_seed,
        )
        self.tables = [self.root / name for name in ([captions] if captions else TABLES)]
        self.images = images
        self.image_column = image_column
        self.caption_column = caption_column
        self.split_column = split_column
        self.val_share = val_share

    def place(self, split: str | None = None) -> Path:
        """The table of captions."""
        return self.captions

    @cached_property
    def captions(self) -> Path:
        """The existing table.

        Raises:
            EdjeError: there is none, or there are several.
        """
        found = [path for path in self.tables if path.exists()]
        if len(found) > 1:
            raise EdjeError(
                f"{self.name}: {len(found)} captions tables in {self.root}: "
                f"{' and '.join(path.name for path in found)}. Choose one with data.captions."
            )
        if not found:
            raise EdjeError(
                f"{self.name}: no captions table at {' or '.join(map(str, self.tables))}. Write "
                f"one with the columns {self.image_column},{self.caption_column}, or set "
                "data.captions to its name."
            )
        return found[0]

    def annotate(self) -> Iterator[AnnotatedImage]:
        """The images of all splits, as in the table.

        Raises:
            EdjeError: the table is missing, or a row or column is invalid.
        """
        require_root(self.root, self.name)
        captions: dict[tuple[str, str | None], ImageCaptions] = {}
        for place, row in table_rows(self.captions, self.name):
            image_id, split, said = self._row(place, row)
            captions.setdefault((image_id, split), ImageCaptions(image_id)).add(said, place)
        if not captions:
            raise EdjeError(
                f"{self.name}: {self.captions} holds no captions. Add a row per caption."
            )
        without = sum(split is None for _, split in captions)
        if 0 < without < len(captions):
            raise EdjeError(
                f"{self.name}: {without} images of {self.captions} have no split, but others have "
                f"one. Fill the column {self.split_column!r} for all, or drop it."
            )
        validation = self._validation_ids([image_id for image_id, _ in captions]) if without else ()
        for (image_id, split), said in captions.items():
            yield AnnotatedImage(
                image_id=image_id,
                split=split or ("val" if image_id in validation else "train"),
                locations=((PurePosixPath(self.images) / image_id).as_posix(),),
                captions=tuple(text.strip() for text in said.texts),
                bad_captions=tuple(said.bad),
            )

    def _row(self, place: str, row: Any) -> tuple[str, str | None, Any]:
        """Image, split and caption (one, or a list) of a row; the caption is not checked yet."""
        columns = list(row) if isinstance(row, dict) else []
        for column in (self.image_column, self.caption_column):
            if column not in columns:
                raise EdjeError(
                    f"{self.name}: {self.captions}, {place}, has no {column!r}; it has "
                    f"{', '.join(map(str, columns)) or 'no columns'}. "
                    "Rename it, or set data.image_column and data.caption_column."
                )
        image = one_spelling(as_text(row[self.image_column]).strip())
        if not image:
            raise EdjeError(f"{self.name}: {self.captions}, {place}: a caption without an image.")
        split = as_text(row.get(self.split_column)).strip()
        return image, self.our_name(split) or None, row[self.caption_column]

    def _validation_ids(self, image_ids: list[str]) -> frozenset[str]:
        def place(image_id: str) -> bytes:
            name = f"val {self.dev_seed} {image_id}".encode(errors="surrogatepass")
            return hashlib.sha256(name).digest()

        count = round(self.val_share * len(image_ids))
        if 0 < self.val_share < 1:
            count = min(max(count, 1), len(image_ids) - 1)
        return frozenset(sorted(image_ids, key=place)[:count])
