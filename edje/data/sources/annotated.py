"""The common part of sources that read annotation files: their settings and checked splits."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from edje.data.sources.assembly import (
    assemble_split,
    require_size,
    require_text,
    require_unique,
)
from edje.data.sources.source import AnnotatedImage, BadImages, split_counts, unknown_split
from edje.ranges import check_path
from edje.records import RetrievalSplit

log = logging.getLogger(__name__)

SYNONYMS = {  # in any case of letters; the first existing one counts
    "train": "train",
    "val": "val",
    "test": "test",
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}


class AnnotatedSource(ABC):
    """A source that reads all annotations once, and the files of a split when it is requested.

    A format says where its annotations are (`place`) and what they contain (`annotate`).
    `image_keys` names the keys that say where images are, for messages.
    `split_sizes` and `caption_counts` are the known numbers per split; null accepts any.
    `split_names` maps the annotations' split names to ours. A usual synonym such as `validation`
    is mapped to our name automatically, unless `split` names it or our own name also occurs.
    """

    image_keys: ClassVar[str] = "data.root and data.images"

    def __init__(
        self,
        *,
        name: str,
        root: str,
        split: str,
        bad_images: BadImages,
        dev_images: int,
        dev_seed: int,
        split_sizes: dict[str, int] | None = None,
        caption_counts: dict[str, int] | None = None,
        split_names: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        check_path("data.root", root)
        self.root = Path(root)
        self.split_names = dict(split_names or {})
        self.split = self.our_name(split)
        self.bad_images: BadImages = bad_images
        self.dev_images = dev_images
        self.dev_seed = dev_seed
        self.split_sizes = split_sizes
        self.caption_counts = caption_counts

    @abstractmethod
    def place(self, split: str | None = None) -> Path:
        """Where the annotations of a split, or of all splits, are read; for messages."""

    @abstractmethod
    def annotate(self) -> Iterable[AnnotatedImage]:
        """The images of all splits, as annotated.

        Raises:
            EdjeError: the annotations are missing or invalid.
        """

    def our_name(self, split: str) -> str:
        """Our name for a split of the annotations, by `split_names`."""
        return self.split_names.get(split, split)

    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted(split_counts(self._annotated))

    def read(self, split: str) -> RetrievalSplit:
        """One split, checked against its known size and the files on disk.

        Raises:
            EdjeError: root, annotations, split or an image is missing or invalid.
        """
        return assemble_split(
            self._images_of(split),
            split,
            dataset=self.name,
            root=self.root,
            annotations=self.place(split),
            bad_images=self.bad_images,
            image_keys=self.image_keys,
        )

    def _images_of(self, split: str) -> list[AnnotatedImage]:
        """The annotated images of a split, after checking that it exists in its known size."""
        images = [image for image in self._annotated if image.split == split]
        if not images:
            raise unknown_split(split, split_counts(self._annotated), self.name, self.place())
        require_size(
            images,
            split,
            dataset=self.name,
            annotations=self.place(split),
            split_sizes=self.split_sizes,
            caption_counts=self.caption_counts,
        )
        return images

    @cached_property
    def _annotated(self) -> tuple[AnnotatedImage, ...]:
        images = tuple(self.annotate())
        require_unique(images, self.name, self.place())
        require_text(images, self.name, self.place())
        names = self._synonyms({image.split for image in images})
        if not names:
            return images
        log.info("%s: its split %s", self.name, ", ".join(f"{a} is {b}" for a, b in names.items()))
        return tuple(replace(image, split=names.get(image.split, image.split)) for image in images)

    def _synonyms(self, theirs: Set[str]) -> dict[str, str]:
        """Our names for splits under other names, if there is no doubt."""
        meant = {self.split, *self.split_names.values()}  # as written
        names: dict[str, str] = {}
        for synonym, ours in SYNONYMS.items():
            for name in sorted(theirs - meant):
                if name.casefold() == synonym and ours not in {*theirs, *names.values()}:
                    names[name] = ours
        return names
