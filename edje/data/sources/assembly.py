"""From annotations to a checked split: the checks that every source makes."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edje.data.sources.source import AnnotatedImage, BadImages
from edje.data.sources.spelling import one_spelling
from edje.data.sources.text_file import not_utf8, open_text
from edje.errors import EdjeError
from edje.images.pictures import is_unicode
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit

log = logging.getLogger(__name__)


class FolderListing:
    """Answers whether files exist by listing each of their folders once.

    A name is found in any Unicode form of its letters: as written, composed (NFC) or not (NFD).
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, tuple[Path, dict[str, str]]] = {}

    def find(self, locations: Iterable[str]) -> str | None:
        """Path of the first location that is a file, including the root; None if there is none."""
        for location in locations:
            folder, slash, name = location.rpartition("/")
            place, names = self._files(folder or slash)
            found = names.get(name) or names.get(one_spelling(name))
            if found is not None:
                return str(place / found)
        return None

    def _files(self, folder: str) -> tuple[Path, dict[str, str]]:
        """A folder and its files' names, by the names themselves and by their `one_spelling`."""
        if folder not in self._folders:
            place, names = self._root / folder, dict[str, str]()
            try:
                place = _existing(self._root, folder)
                with os.scandir(place) as entries:
                    names = {entry.name: entry.name for entry in entries if _is_file(entry)}
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (OSError, ValueError) as error:  # ValueError: a name with a NUL
                log.warning("%r: its images count as missing (%s)", str(place), error)
            odd = {one_spelling(name): name for name in names if not name.isascii()}
            self._folders[folder] = place, odd | names
        return self._folders[folder]


def require_root(root: Path, dataset: str, key: str = "data") -> None:
    """Check that the data set's folder, `<key>.root`, exists.

    Raises:
        EdjeError: it doesn't.
    """
    if not root.is_dir():
        raise EdjeError(
            f"{dataset}: the data root {root} is not a folder (looked in {Path.cwd()}). "
            f"Set {key}.root=<folder with the annotations and images>."
        )


def require_json(path: Path, dataset: str) -> Any:
    """The content of an annotation file.

    Raises:
        EdjeError: it can't be read as JSON.
    """
    try:
        with open_text(path, dataset) as file:
            return json.load(file)
    except UnicodeDecodeError as error:
        raise not_utf8(path, dataset) from error
    except (OSError, ValueError) as error:
        lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        raise EdjeError(
            f"{dataset}: {path} is not readable as JSON ({error}). "
            + ("For JSON lines, name the file .jsonl." if lines else "Fetch it again.")
        ) from error


def possible_locations(
    folders: Iterable[str], path: str, *, tails_too: bool = True
) -> tuple[str, ...]:
    """Where an annotated image may be: in each folder, under its path and every tail of it.

    So `val2014/x.jpg` is found both in its subfolder and in a flat folder.
    """
    parts = PurePosixPath(one_spelling(path)).parts
    tails = [PurePosixPath(*parts[start:]) for start in range(len(parts) if tails_too else 1)]
    found = ((PurePosixPath(folder) / tail).as_posix() for folder in folders for tail in tails)
    return tuple(dict.fromkeys(found))


def require_text(images: Sequence[AnnotatedImage], dataset: str, annotations: Path) -> None:
    """Check that all images have names that tables of results can hold.

    Raises:
        EdjeError: some have bytes that aren't UTF-8, as file systems allow and JSON keeps.
    """
    odd = [image.image_id for image in images if not is_unicode(image.image_id)]
    if odd:
        raise EdjeError(
            f"{dataset}: {len(odd)} image name(s) in {annotations} are not valid UTF-8, such as "
            f"{odd[0]!a}. Rename the files, and write the annotations again."
        )


def require_unique(images: Sequence[AnnotatedImage], dataset: str, annotations: Path) -> None:
    """Check that no image is annotated twice, in one split or in two.

    Raises:
        EdjeError: some are; names them.
    """
    if len({image.image_id for image in images}) == len(images):
        return
    splits: dict[str, list[str]] = {}
    for image in images:
        splits.setdefault(image.image_id, []).append(image.split)
    leaking = {key: names for key, names in splits.items() if len(set(names)) > 1}
    if leaking:
        image_id, names = next(iter(leaking.items()))
        raise EdjeError(
            f"{dataset}: {len(leaking)} image(s) in two splits in {annotations}, such as "
            f"{image_id} in {' and '.join(sorted(set(names)))}. Leave each image in one split."
        )
    twice = [key for key, names in splits.items() if len(names) > 1]
    raise EdjeError(
        f"{dataset}: {len(twice)} image(s) annotated twice in {annotations}: {_few(twice)}. "
        "Merge the entries of one image into one."
    )


def require_size(
    images: Sequence[AnnotatedImage],
    split: str,
    *,
    dataset: str,
    annotations: Path,
    split_sizes: Mapping[str, int] | None,
    caption_counts: Mapping[str, int] | None,
) -> None:
    """Compare an annotated split with its known numbers of images and of captions.

    Raises:
        EdjeError: one differs; says how to accept the file unchanged.
    """
    captions = sum(len(image.captions) + len(image.bad_captions) for image in images)
    got = {"split_sizes": len(images), "caption_counts": captions}
    for key, known in (("split_sizes", split_sizes), ("caption_counts", caption_counts)):
        expected = (known or {}).get(split)
        if expected is not None and got[key] != expected:
            what = "images" if key == "split_sizes" else "captions"
            raise EdjeError(
                f"{dataset}: split {split!r} of {annotations} has {got[key]:,} {what}, expected "
                f"{expected:,}. Use the published split, or accept yours with data.{key}=null."
            )


def assemble_split(
    images: Sequence[AnnotatedImage],
    split: str,
    *,
    dataset: str,
    root: Path,
    annotations: Path,
    bad_images: BadImages,
    image_keys: str,
) -> RetrievalSplit:
    """Make the record of one split: files found, images sorted by id, captions by image.

    Images without a file or a caption are an error or, with `skip`, left out and listed in
    `skipped`. The same holds for bad captions, which are counted in the log; an image with only
    bad captions is one without a caption. Caption ids are `<image id>#<number within the image>`.
    `image_keys` names the keys that say where images are.

    Raises:
        EdjeError: an image or a caption is bad and the policy is `error`, or nothing is left.
    """
    listing = FolderListing(root)
    paths = {image.image_id: listing.find(image.locations) for image in images}
    missing = sorted(image_id for image_id, path in paths.items() if path is None)
    silent = sorted(image.image_id for image in images if not image.captions)
    bad_captions = [told for image in images for told in image.bad_captions]
    if missing and bad_images == "error":
        tried = next(image.locations for image in images if image.image_id == missing[0])
        raise EdjeError(
            f"{dataset}: {len(missing):,} of {len(images):,} images of split {split!r} have no "
            f"file under {root}: {_few(missing)} (tried {', '.join(tried)}). Check "
            f"{image_keys}, or leave them out with data.bad_images=skip."
        )
    if bad_captions and bad_images == "error":
        raise EdjeError(
            f"{dataset}: {len(bad_captions):,} captions of split {split!r} in {annotations} hold "
            f"no text: {bad_captions[0]}. Write it or delete it, or leave such captions out with "
            "data.bad_images=skip."
        )
    if silent and bad_images == "error":
        raise EdjeError(
            f"{dataset}: {len(silent):,} images of split {split!r} in {annotations} have no "
            f"caption: {_few(silent)}. Add captions, or leave them out with data.bad_images=skip."
        )
    if bad_captions:
        log.warning(
            "%s: left out %d bad captions of split %s: %s",
            dataset,
            len(bad_captions),
            split,
            _few(bad_captions),
        )
    skipped = sorted({*missing, *silent})
    if skipped:
        log.warning(
            "%s: left out %d bad images of split %s: %s",
            dataset,
            len(skipped),
            split,
            _few(skipped),
        )
    kept = sorted(
        (image for image in images if image.captions and paths[image.image_id] is not None),
        key=lambda image: image.image_id,
    )
    if not kept:
        raise EdjeError(
            f"{dataset}: split {split!r} of {annotations} is empty"
            + (f" ({len(skipped):,} bad images were left out)." if skipped else ".")
            + f" Choose another with data.split, or check {image_keys} and the annotations."
        )
    return RetrievalSplit(
        dataset=dataset,
        name=split,
        images=tuple(ImageRecord(image.image_id, paths[image.image_id] or "") for image in kept),
        captions=tuple(
            CaptionRecord(f"{image.image_id}#{number}", image.image_id, text)
            for image in kept
            for number, text in enumerate(image.captions)
        ),
        skipped=tuple(skipped),
    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link to itself
        return False


def _existing(root: Path, folder: str) -> Path:
    """A folder below root, with each part of its path in its existing spelling."""
    place = root / folder
    if folder.isascii() or place.is_dir():
        return place
    place = root
    for part in PurePosixPath(folder).parts:
        there = place.iterdir() if place.is_dir() and not (place / part).is_dir() else ()
        alike = (path for path in there if one_spelling(path.name) == one_spelling(part))
        place = next(alike, place / part)
    return place


def _few(names: Sequence[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest:,} more" if rest > 0 else "")
