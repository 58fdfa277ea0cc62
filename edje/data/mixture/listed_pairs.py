"""Pairs of an annotation file: its possible layouts, and where the images are."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from edje.data.mixture.pairs import BLOCK_ROWS, Entry, LeftOut, Pair, PairTable, cached_table
from edje.data.sources.assembly import FolderListing, possible_locations, require_json, require_root
from edje.data.sources.caption_lists import caption_list_entry
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import BadImages, Source
from edje.data.sources.spelling import as_text, one_spelling
from edje.data.sources.tables import table_rows
from edje.errors import EdjeError
from edje.ranges import check_path

Annotation = tuple[str, str, Any]  # an image's path; its caption's position; its caption or a list


class ListedPairs:
    """Image files and captions named by one annotation file, in any of these layouts.

    A list in BLIP's and ALBEF's form (an entry is a pair); `.csv`, `.tsv` or `.jsonl` with an
    image and a caption in each row; COCO's `captions_*.json` (an annotation is a pair);
    Karpathy's `dataset_*.json` (a sentence is a pair; only those of `splits`); and Visual Genome's
    `region_descriptions.json` (an image with all its phrases is a pair; each visit draws one of
    them). The content shows the layout. Images are found as by a `KarpathySource`: in each of the
    folders `images`, under the annotated path and every tail of it.

    Args:
        root: the folder of annotations and images.
        annotations: the file, within root.
        images: folders of images, within root.
        image_column: of a table; `caption_column` likewise.
        splits: those of Karpathy's file to train on.
        passes: how often a pass over the mixture visits each pair.
        held_back: the same files as a cached set. Its dev, val, test and evaluated images are
            never trained on, so that a later stage may choose on them. null trains on all.
    """

    def __init__(
        self,
        *,
        root: str,
        annotations: str,
        images: list[str],
        image_column: str = "image",
        caption_column: str = "caption",
        splits: list[str] | None = None,
        passes: float = 1.0,
        held_back: Source | None = None,
    ):
        check_path("root", root)
        self.root = Path(root)
        self.annotations = self.root / annotations
        self.images = tuple(images)
        self.columns = (image_column, caption_column)
        self.splits = frozenset(("train", "restval") if splits is None else splits)
        self.passes = passes
        self.held_back = held_back

    def table(self, name: str, cache_dir: Path, bad_images: BadImages) -> PairTable:
        """All its pairs, with every image's file found.

        Raises:
            EdjeError: the annotations are missing or of no known layout, or images are missing.
        """
        dataset = f"data.sources.{name}"
        require_root(self.root, dataset, key=dataset)
        if not self.annotations.is_file():
            raise EdjeError(
                f"{dataset}: no annotations at {self.annotations}. Set {dataset}.annotations=<path "
                f"within {dataset}.root>, or leave it out: {dataset}=null."
            )
        status = self.annotations.stat()
        facts = [str(self.annotations.resolve()), f"{status.st_size} {status.st_mtime_ns}"]
        facts += [*self.images, *self.columns, *sorted(self.splits)]
        listing = FolderListing(self.root)
        return cached_table(
            name,
            facts,
            lambda: self._blocks(dataset, listing),
            cache_dir,
            bad_images,
            has_file=lambda image: self._find(image, listing) is not None,
        )

    def _find(self, image: str, listing: FolderListing) -> str | None:
        return listing.find(possible_locations(self.images, image))

    def _blocks(self, dataset: str, listing: FolderListing) -> Iterator[list[Entry]]:
        entries = self._entries(dataset, listing)
        while block := list(islice(entries, BLOCK_ROWS)):
            yield block

    def _entries(self, dataset: str, listing: FolderListing) -> Iterator[Entry]:
        paths: dict[str, str] = {}  # by file: the longest of the paths annotated for it
        for image, place, value in self._annotated(dataset):
            found = self._find(image, listing)
            if found is None:
                tried = possible_locations(self.images, image)[0]
                problem = f"image {image} has no file under {self.root} ({tried}, …)"
                yield LeftOut(problem, missing=image)
                continue
            path = one_spelling(image)
            tail, whole = sorted((path, paths.get(found, path)), key=len)
            if not f"/{whole}".endswith(f"/{tail}"):
                raise EdjeError(
                    f"{dataset}: {self.annotations}, {place}: {path} and {paths[found]} are both "
                    f"found as {found}. If they are two images, keep each in its own folder below "
                    f"{self.root}; if they are one, give it one path."
                )
            paths[found] = whole
            said = ImageCaptions(image)
            said.add(value, f"{self.annotations}, {place}")
            if said.texts:
                yield Pair(self._within(found), tuple(said.texts))
                yield from map(LeftOut, said.bad)
            else:
                told = said.bad[0] if said.bad else f"none in {self.annotations}, {place}"
                yield LeftOut(f"image {image} has no caption ({told})")

    def _within(self, path: str) -> str:
        """A file's path relative to the root; that of one elsewhere stays absolute."""
        for root in self._roots:
            if path.startswith(root):
                return path[len(root) :]
        return path

    @cached_property
    def _roots(self) -> tuple[str, str]:
        return f"{self.root}/", f"{self.root.absolute()}/"

    def _annotated(self, dataset: str) -> Iterator[Annotation]:
        """Images and captions in the file's order."""
        path = self.annotations
        if path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
            yield from self._of_table(dataset)
            return
        content = require_json(path, dataset)
        try:
            yield from self._of_json(content, dataset)
        except (AttributeError, KeyError, TypeError) as error:
            raise EdjeError(
                f"{dataset}: {path} has no known layout (lacks {error}). Expected a list of "
                '{"image": …, "caption": …}, COCO\'s captions, Karpathy\'s JSON or Visual '
                "Genome's region descriptions."
            ) from error

    def _of_json(self, content: Any, dataset: str) -> Iterable[Annotation]:
        if isinstance(content, dict) and "annotations" in content:  # COCO
            names = {image["id"]: str(image["file_name"]) for image in content["images"]}
            return (
                (names[one["image_id"]], f"annotations[{number}]", one["caption"])
                for number, one in enumerate(content["annotations"])
            )
        if isinstance(content, dict):  # Karpathy
            return (
                (
                    str(PurePosixPath(one.get("filepath") or ".") / one["filename"]),
                    f"images[{number}], sentences[{place}]",
                    said["raw"],
                )
                for number, one in enumerate(content["images"])
                if one["split"] in self.splits
                for place, said in enumerate(one["sentences"])
            )
        if content and isinstance(content[0], dict) and "regions" in content[0]:  # Visual Genome
            return (
                (
                    f"{one.get('image_id', one.get('id'))}.jpg",
                    f"entry {number}",
                    [region["phrase"] for region in one["regions"]],
                )
                for number, one in enumerate(content)
            )
        entries = (
            caption_list_entry(number, entry, self.annotations, dataset)
            for number, entry in enumerate(content)
        )
        return ((image, f"entry {number}", said) for number, (image, said, _) in enumerate(entries))

    def _of_table(self, dataset: str) -> Iterator[Annotation]:
        for place, row in table_rows(self.annotations, dataset):
            missing = [key for key in self.columns if not isinstance(row, dict) or key not in row]
            if missing:
                raise EdjeError(
                    f"{dataset}: {self.annotations}, {place}, has no {missing[0]!r}. Rename it, or "
                    f"set {dataset}.image_column and {dataset}.caption_column."
                )
            image, value = (row[key] for key in self.columns)
            image = as_text(image).strip()
            if not image:
                raise EdjeError(
                    f"{dataset}: {self.annotations}, {place}: {str(row)[:60]} is not an image with "
                    "a caption or a list of captions."
                )
            yield image, place, value
