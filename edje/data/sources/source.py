"""The interface of a source of image-caption data."""

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from edje.errors import EdjeError
from edje.records import RetrievalSplit

BadImages = Literal["error", "skip"]
OUR_SPLITS = ("train", "val", "test")


class Source(Protocol):
    """An image-caption data set with named splits, on local disk.

    `split` names the evaluated split. `dev_images` training images, fixed by `dev_seed`, are the
    set on which everything is chosen (see `hold_out`).
    """

    name: str
    split: str
    dev_images: int
    dev_seed: int
    bad_images: BadImages

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        ...

    @abstractmethod
    def read(self, split: str) -> RetrievalSplit:
        """One split, checked.

        Raises:
            EdjeError: the data is missing, broken or invalid.
        """
        ...


@dataclass(frozen=True)
class AnnotatedImage:
    """One image as annotated; `locations` are paths to try, in order."""

    image_id: str
    split: str
    locations: tuple[str, ...]  # relative to the root
    captions: tuple[str, ...]
    bad_captions: tuple[str, ...] = ()  # where each is, and why it is bad


def unknown_split(split: str, splits: Mapping[str, int], dataset: str, place: Path) -> EdjeError:
    """The error for a split that a data set doesn't have; lists those it has."""
    known = ", ".join(f"{name} ({count:,} images)" for name, count in sorted(splits.items()))
    other = next((name for name in sorted(splits) if name not in OUR_SPLITS), None)
    choices = [] if split == "train" else ["Choose one of these with data.split"]
    if other is not None:
        choices.append(f"say which one it is, such as 'data.split_names={{{other}: {split}}}'")
    advice = ", or ".join(choices) or "Add the images to train on"
    return EdjeError(
        f"{dataset}: {place} has no split {split!r}; it has {known or 'none'}. "
        f"{advice[0].upper()}{advice[1:]}."
    )


def split_counts(images: Iterable[AnnotatedImage]) -> dict[str, int]:
    """Number of annotated images per split."""
    return dict(Counter(image.split for image in images))


def split_digest(split: RetrievalSplit) -> str:
    """SHA-256 of a split's image ids and captions: equal for equal evaluation sets."""
    digest = hashlib.sha256()
    for image in split.images:
        digest.update(f"{image.image_id}\n".encode())
    for caption in split.captions:  # JSON may contain half a character: a lone surrogate
        line = f"{caption.image_id}\t{caption.text}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()
