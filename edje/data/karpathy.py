"""Data sets in Karpathy's format: Flickr8k, Flickr30k, COCO and others written like them."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edje.data.annotated import AnnotatedSource
from edje.data.assembly import require_root
from edje.data.source import AnnotatedImage, BadImages
from edje.errors import EdjeError

# Karpathy's "restval" are the images of COCO's val2014 that he did not choose for evaluation.
_MERGED_SPLITS = {"restval": "train"}


class KarpathySource(AnnotatedSource):
    """Reads `dataset_*.json` and finds its images.

    An image is searched in each folder of `images` (relative to `root`, "." for the root), with
    the `filepath` of its annotation and without, so that COCO's train2014/ and val2014/ and a
    flat folder are found alike. Image ids are the file names. The split `restval` counts as
    train.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        annotations: str,
        images: list[str],
        split: str = "test",
        bad_images: BadImages = "error",
        split_sizes: dict[str, int] | None = None,
        caption_counts: dict[str, int] | None = None,
        dev_images: int = 1000,
        dev_seed: int = 0,
    ) -> None:
        super().__init__(
            name=name,
            root=root,
            split=split,
            bad_images=bad_images,
            dev_images=dev_images,
            dev_seed=dev_seed,
            split_sizes=split_sizes,
            caption_counts=caption_counts,
        )
        self.annotations = self.root / annotations
        self.images = tuple(images)

    def place(self, split: str | None = None) -> Path:
        """The file of annotations."""
        return self.annotations

    def annotate(self) -> Iterator[AnnotatedImage]:
        """The images of all splits, as the file gives them.

        Raises:
            EdjeError: the file is missing or not in Karpathy's format.
        """
        require_root(self.root, self.name)
        try:
            content = json.loads(self.annotations.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EdjeError(
                f"{self.name}: no annotations at {self.annotations}. Put Karpathy's JSON there, "
                "or set data.annotations=<its path within data.root>."
            ) from None
        except (OSError, ValueError) as error:
            raise EdjeError(
                f"{self.name}: {self.annotations} is not readable as JSON ({error}). "
                "Fetch it again."
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise self._malformed("no list under the key 'images'")
        for number, entry in enumerate(content["images"]):
            yield self._image(number, entry)

    def _image(self, number: int, entry: Any) -> AnnotatedImage:
        try:
            filename = str(entry["filename"])
            split = str(entry["split"])
            captions = tuple(str(sentence["raw"]) for sentence in entry["sentences"])
            owners = {sentence.get("imgid") for sentence in entry["sentences"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise self._malformed(f"images[{number}] lacks {error}") from error
        if not filename:
            raise self._malformed(f"images[{number}] has captions but no image: empty 'filename'")
        if "imgid" in entry and not owners <= {None, entry["imgid"]}:
            raise self._malformed(
                f"captions without their image: {filename} (imgid {entry['imgid']}) holds "
                f"captions of imgid {', '.join(map(str, owners - {entry['imgid']}))}"
            )
        filepath = str(entry.get("filepath") or ".")
        locations = (
            (PurePosixPath(folder) / inner / filename).as_posix()
            for folder in self.images
            for inner in (filepath, ".")
        )
        return AnnotatedImage(
            image_id=filename,
            split=_MERGED_SPLITS.get(split, split),
            locations=tuple(dict.fromkeys(locations)),
            captions=captions,
        )

    def _malformed(self, problem: str) -> EdjeError:
        return EdjeError(
            f"{self.name}: {self.annotations} is not in Karpathy's format: {problem}. Expected "
            '{"images": [{"filename": …, "split": …, "sentences": [{"raw": …}, …]}, …]}.'
        )
