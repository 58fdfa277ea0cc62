"""Data sets in Karpathy's splits: Flickr8k, Flickr30k, COCO and others in the same form."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edje.data.sources.annotated import AnnotatedSource
from edje.data.sources.assembly import possible_locations, require_json, require_root
from edje.data.sources.caption_lists import ImageIds, read_caption_list
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import AnnotatedImage, BadImages
from edje.data.sources.spelling import as_text, one_spelling
from edje.errors import EdjeError

# Karpathy's "restval" is the images of COCO's val2014 that he did not choose for evaluation.
_MERGED_SPLITS = {"restval": "train"}


class KarpathySource(AnnotatedSource):
    """Reads `dataset_*.json`, or lists of captions by split, and finds the images.

    An image is searched in each folder of `images` (relative to `root`, "." for the root), with
    and without its annotated subfolder. So COCO's train2014/ and val2014/ are found, and a flat
    folder too. Image ids are the file names, so that both formats give the same split. With
    `image_ids=path`, for names that occur in several folders, they are the paths, and images are
    searched with their subfolder only. The split `restval` counts as train, unless `split_names`
    maps it. `caption_lists` names BLIP's file of each split; the existing ones are read if
    `annotations` doesn't exist.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        annotations: str,
        images: list[str],
        caption_lists: dict[str, str] | None = None,
        image_ids: ImageIds = "name",
        split: str = "test",
        split_names: dict[str, str] | None = None,
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
            split_names=split_names,
            bad_images=bad_images,
            dev_images=dev_images,
            dev_seed=dev_seed,
            split_sizes=split_sizes,
            caption_counts=caption_counts,
        )
        self.annotations = self.root / annotations
        self.images = tuple(images)
        self.image_ids: ImageIds = image_ids
        self.caption_lists = {
            name: self.root / path for name, path in (caption_lists or {}).items()
        }

    def place(self, split: str | None = None) -> Path:
        """Karpathy's JSON, the list of a split, or the folder of all lists."""
        lists = self._lists()
        return lists.get(split or "", self.root) if lists else self.annotations

    def annotate(self) -> Iterable[AnnotatedImage]:
        """The images of all splits, as in the files.

        Raises:
            EdjeError: there is neither Karpathy's JSON nor a list, or it has a wrong format.
        """
        require_root(self.root, self.name)
        lists = self._lists()
        if lists:
            return self._with_one_path_each(
                image
                for split, path in lists.items()
                for image in read_caption_list(path, split, self.images, self.name, self.image_ids)
            )
        if not self.annotations.exists():
            others = ", ".join(path.name for path in self.caption_lists.values())
            raise EdjeError(
                f"{self.name}: no annotations at {self.annotations}"
                + (f", nor any of {others} beside it" if others else "")
                + ". Put Karpathy's JSON there, or set data.annotations=<its path within "
                "data.root>."
            )
        content = require_json(self.annotations, self.name)
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise self._malformed("no list under the key 'images'")
        return self._with_one_path_each(
            self._image(number, entry) for number, entry in enumerate(content["images"])
        )

    def _lists(self) -> dict[str, Path]:
        """The existing caption lists, by split; none if Karpathy's JSON exists."""
        if self.annotations.exists():
            return {}
        return {split: path for split, path in self.caption_lists.items() if path.is_file()}

    def _image(self, number: int, entry: Any) -> AnnotatedImage:
        try:
            filename = as_text(entry["filename"])
            split = as_text(entry["split"])
            captions = ImageCaptions(filename)
            for place, sentence in enumerate(entry["sentences"]):
                captions.add(sentence["raw"], f"images[{number}], sentences[{place}]")
            owners = {sentence.get("imgid") for sentence in entry["sentences"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise self._malformed(f"images[{number}] lacks {error}") from error
        if not filename:
            raise self._malformed(f"images[{number}] has captions but no image: empty 'filename'")
        if not split:
            raise self._malformed(f"images[{number}] ({filename}) has an empty 'split'")
        if "imgid" in entry and not owners <= {None, entry["imgid"]}:
            raise self._malformed(
                f"captions without their image: {filename} (imgid {entry['imgid']}) holds "
                f"captions of imgid {', '.join(sorted(map(str, owners - {None, entry['imgid']})))}"
            )
        filename = one_spelling(filename)
        path = one_spelling(f"{entry.get('filepath') or '.'}/{filename}")
        return AnnotatedImage(
            image_id=filename if self.image_ids == "name" else path,
            split=self.split_names.get(split) or self.our_name(_MERGED_SPLITS.get(split, split)),
            locations=possible_locations(self.images, path, tails_too=self.image_ids == "name"),
            captions=tuple(captions.texts),
            bad_captions=tuple(captions.bad),
        )

    def _with_one_path_each(self, images: Iterable[AnnotatedImage]) -> list[AnnotatedImage]:
        """The images, after checking that each file name is used by only one of them.

        Raises:
            EdjeError: a name is used by several.
        """
        found, first = list(images), dict[str, AnnotatedImage]()
        for image in found:
            other = first.setdefault(image.image_id, image)
            if other.locations[0] != image.locations[0]:
                raise EdjeError(
                    f"{self.name}: {image.image_id} stands for {other.locations[0]} and for "
                    f"{image.locations[0]} in {self.place()}; image ids are the file names. If "
                    "these are two images, set data.image_ids=path; if they are one, name it once."
                )
        return found

    def _malformed(self, problem: str) -> EdjeError:
        return EdjeError(
            f"{self.name}: {self.annotations} is not in Karpathy's format: {problem}. Expected "
            '{"images": [{"filename": …, "split": …, "sentences": [{"raw": …}, …]}, …]}.'
        )
