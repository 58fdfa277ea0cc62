"""Mixtures for pretraining, too large to cache: pairs of many files, encoded on the fly."""

import logging
import os
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from math import inf
from pathlib import Path, PurePosixPath

from edje.data.mixture.order import Block
from edje.data.mixture.pairs import Pair, PairSource, PairTable
from edje.data.mixture.visual_genome import copies
from edje.data.sources.holdout import hold_out, never_trained_on
from edje.data.sources.source import BadImages, Source
from edje.errors import EdjeError
from edje.records import RetrievalSplit

DEV = "dev"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixture:
    """The pairs of all sources as one list of rows, in blocks."""

    tables: tuple[PairTable, ...]
    roots: tuple[Path, ...]
    blocks: tuple[Block, ...]

    def pair(self, row: int) -> tuple[Path, Pair]:
        """The pair of a row, and the folder that its file is relative to."""
        source = bisect_right(self._ends, row)
        return self.roots[source], self.tables[source][row - self._starts[source]]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(table) for table in self.tables))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *self._ends[:-1]]


class PretrainSource:
    """A mixture of annotation files and tars to train on, and a cached set to choose on.

    Of the mixture, only the images' positions and their captions are cached. Other code sees this
    source as `evaluated`: its `split` is the evaluated one, and its held-out training images are
    the split `dev`. Images of these two are not trained on, if the mixture names the same files
    or Visual Genome's list of images says that they are the same photo.
    Nor are the images on which a later stage may choose or report, of any set that a source names
    as `held_back`.

    Args:
        sources: by name; null leaves one out.
        evaluated: the cached set to choose and evaluate on; null for none.
        cache_dir: where tables of the pairs are kept.
        bad_images: error, or skip what can't be read, in annotations and while training.

    Raises:
        EdjeError: a source's passes is not above 0, or the evaluated split is called dev.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, PairSource | None],
        evaluated: Source | None,
        cache_dir: str = "cache",
        bad_images: BadImages = "skip",
    ):
        self.sources = {name: source for name, source in sources.items() if source is not None}
        for name, source in self.sources.items():
            if not (isinstance(source.passes, int | float) and 0 < source.passes < inf):
                raise EdjeError(
                    f"data.sources.{name}.passes={source.passes}: expected a number above 0. "
                    f"Leave the source out with data.sources.{name}=null."
                )
        if evaluated is not None and evaluated.dev_images and evaluated.split == DEV:
            raise EdjeError(
                f"data.evaluated.split={DEV}: this is the name of the training images held back. "
                f"Call it val, with 'data.evaluated.split_names={{{DEV}: val}}', or hold none "
                "back, with data.evaluated.dev_images=0."
            )
        self.evaluated = evaluated
        self.cache_dir = Path(cache_dir)
        self.bad_pairs: BadImages = bad_images
        self.trained_on = " + ".join(self.sources)
        self.name = "pretrain" if evaluated is None else evaluated.name
        self.split = "none" if evaluated is None else evaluated.split
        self.dev_images = 0 if evaluated is None else evaluated.dev_images
        self.dev_seed = 0 if evaluated is None else evaluated.dev_seed
        self.bad_images: BadImages = "error" if evaluated is None else evaluated.bad_images

    def splits(self) -> list[str]:
        """Names of the splits of the evaluated source, and dev."""
        others = [] if self.evaluated is None else self.evaluated.splits()
        return sorted({*others, *([DEV] if self.dev_images else [])})

    def read(self, split: str) -> RetrievalSplit:
        """A split of the evaluated source, or its held-out training images.

        Raises:
            EdjeError: there is no evaluated source, or it raises one itself.
        """
        if self.evaluated is None:
            raise EdjeError(
                f"data.evaluated=null: there is no split {split!r} to score on. Choose a source "
                "with data@data.evaluated=<flickr30k, coco, …>, or train alone with task=train."
            )
        if split == DEV and self.dev_images:
            return hold_out(self.evaluated.read("train"), self.dev_images, self.dev_seed)[1]
        return self.evaluated.read(split)

    def mixture(self) -> Mixture:
        """Everything to train on.

        Raises:
            EdjeError: annotations, tars or images are missing or broken.
        """
        sources = self.sources.items()
        tables = [source.table(name, self.cache_dir, self.bad_pairs) for name, source in sources]
        roots = tuple(source.root for _, source in sources)
        judged = self._judged_on()
        blocks, first = [], 0
        left_out = 0
        for table, (name, source) in zip(tables, sources, strict=True):
            same = copies(source.root, f"data.sources.{name}", judged) if judged else ()
            seen = 0  # rows to visit in the blocks so far
            for number, rows in enumerate(table.blocks):
                without = tuple(
                    row
                    for row, file in enumerate(table.files(number) if judged else ())
                    if _true_place(file if file[:1] == "/" else f"{source.root}/{file}") in judged
                    or PurePosixPath(file).stem in same
                )
                seen += (own := rows - len(without))
                ends = [round(source.passes * end) for end in (seen - own, seen)]
                blocks.append(Block(first, rows, (ends[1] - ends[0]) / max(own, 1), without))
                first += rows
                left_out += len(without)
        if judged:
            log.info("%d pairs are not trained on: their images are held back", left_out)
        return Mixture(tuple(tables), roots, tuple(blocks))

    def _judged_on(self) -> frozenset[str]:
        """The image files that this run or a later stage chooses or reports on."""
        splits = []
        if self.evaluated is not None:
            names = [self.split, *([DEV] if self.dev_images else [])]
            splits = [self.read(name) for name in names]
        for name, source in self.sources.items():
            if source.held_back is not None:
                splits += _held_back(name, source.held_back)
        return frozenset(_true_place(image.path) for split in splits for image in split.images)


def trained_on(source: Source) -> str:
    """The name of what a run on a source is trained on."""
    return source.trained_on if isinstance(source, PretrainSource) else source.name


def _held_back(name: str, source: Source) -> list[RetrievalSplit]:
    """The splits of a source's cached set that are not trained on; none if the set is missing."""
    key = f"data.sources.{name}.held_back"
    try:
        source.splits()
    except EdjeError as error:
        log.warning("%s: no image is held back, as no run can choose on this set: %s", key, error)
        return []
    try:
        return never_trained_on(source)
    except EdjeError as error:
        raise EdjeError(
            f"{key}: can't find the images that a later stage chooses on ({error}) Settings of "
            f"this set are under {key}; {key}=null trains on all of its images."
        ) from error


def _true_place(path: str) -> str:
    """An image file's path with all links resolved, those to its folder once."""
    folder, _, name = path.rpartition("/")
    place, links = _true_folder(folder)
    return os.path.realpath(path) if name in links else f"{place}/{name}"


@cache
def _true_folder(folder: str) -> tuple[str, frozenset[str]]:
    """A folder's path with all links resolved, and which of its files are links."""
    links: frozenset[str] = frozenset()
    with suppress(OSError), os.scandir(folder) as entries:  # without it, there are no images
        links = frozenset(entry.name for entry in entries if entry.is_symlink())
    return os.path.realpath(folder), links
