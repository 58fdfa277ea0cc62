"""The embedded data set: scenes of coloured shapes, rendered on first use, read like photos."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edje.data.shapes.scene_captions import write_captions
from edje.data.shapes.scene_images import draw_scene
from edje.data.shapes.scenes import COLOURS, SHAPES, Scene, generate_scenes
from edje.data.sources.karpathy import KarpathySource
from edje.data.sources.source import BadImages
from edje.durable import new_file
from edje.errors import EdjeError
from edje.records import RetrievalSplit
from edje.tokens.lock import writer_lock

log = logging.getLogger(__name__)

ANNOTATIONS = "dataset_shapes.json"
GENERATOR = 2  # raise it if the same recipe gives other images or captions
_STREAMS = ("train", "val", "test")


class ShapesSource(KarpathySource):
    """Scenes of coloured shapes with captions that name attributes and relations.

    Each caption is true of exactly one image among `unique_among` images of its split. For
    evaluated splits up to that size, that is exactly one image of the split. `siblings`
    successive scenes show the same things with exchanged colours (see `edje.data.shapes.scenes`).
    The images and annotations depend only on the arguments that describe them. They are rendered
    into `root` when a split is first read, and read through Karpathy's JSON like photographs. The
    scene of each image is in the JSON under "scene".

    Args:
        objects: in each scene, no shape and no colour twice.
        train_siblings: `siblings` of the training split.
        cache_dir: where the folder `shapes-<digest>` is made if `root` is null.
        root: the folder of the images, already rendered by this recipe or still to be.
        image_side: pixels.
        background_share: share of the captions that name the background.
    """

    def __init__(
        self,
        *,
        name: str = "shapes",
        cache_dir: str = "cache",
        root: str | None = None,
        split: str = "test",
        train_images: int = 3000,
        val_images: int = 500,
        test_images: int = 500,
        objects: int = 3,
        siblings: int = 4,
        train_siblings: int = 4,
        captions: int = 5,
        background_share: float = 0.8,
        unique_among: int = 500,
        image_side: int = 96,
        render_seed: int = 0,
        bad_images: BadImages = "error",
        dev_images: int = 0,
        dev_seed: int = 0,
    ) -> None:
        _require_possible(objects, siblings, "siblings")
        _require_possible(objects, train_siblings, "train_siblings")
        self.sizes = dict(zip(_STREAMS, (train_images, val_images, test_images), strict=True))
        self.recipe: dict[str, Any] = {
            "generator": GENERATOR,
            "images": self.sizes,
            "objects": objects,
            "siblings": siblings,
            "train_siblings": train_siblings,
            "captions": captions,
            "background_share": background_share,
            "unique_among": unique_among,
            "image_side": image_side,
            "seed": render_seed,
        }
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        super().__init__(
            name=name,
            root=root or str(Path(cache_dir) / f"shapes-{digest[:12]}"),
            annotations=ANNOTATIONS,
            images=["images"],
            split=split,
            bad_images=bad_images,
            split_sizes=self.sizes,
            caption_counts={key: captions * count for key, count in self.sizes.items()},
            dev_images=dev_images,
            dev_seed=dev_seed,
        )
        self._rendered = False

    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        self.render()
        return super().splits()

    def read(self, split: str) -> RetrievalSplit:
        """One split, rendered now if its images don't exist yet.

        Raises:
            EdjeError: no such split, or `root` holds other images.
        """
        self.render()
        return super().read(split)

    def render(self) -> None:
        """Make the images and finally the annotations; does nothing if they exist.

        A half rendered folder is rendered again. If another process is rendering it, this one
        waits.

        Raises:
            EdjeError: `root` holds a data set of another recipe, or can't be written.
        """
        if self._rendered:
            return
        if not self.annotations.is_file():
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                with writer_lock(self.root):
                    if not self.annotations.is_file():
                        self._write()
            except OSError as error:
                raise EdjeError(
                    f"{self.name}: can't write the rendered images to {self.root} ({error}). "
                    "Make room there, or set data.root=<a folder to write to>."
                ) from error
        self._require_recipe()
        self._rendered = True

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of a split, in the order of its images."""
        return [scene for scene, _ in self._described(split)]

    def _described(self, split: str) -> Iterator[tuple[Scene, list[str]]]:
        """Scenes with their captions, in blocks within which captions are unique."""
        recipe, seed = self.recipe, self.recipe["seed"]
        for block, start in enumerate(range(0, self.sizes[split], recipe["unique_among"])):
            stream = (_STREAMS.index(split), block)
            scenes = generate_scenes(
                min(recipe["unique_among"], self.sizes[split] - start),
                siblings=recipe["train_siblings" if split == "train" else "siblings"],
                objects=recipe["objects"],
                seed=(seed, *stream),
            )
            captions = write_captions(
                scenes,
                per_scene=recipe["captions"],
                background_share=recipe["background_share"],
                seed=(seed, *stream),
            )
            yield from zip(scenes, captions, strict=True)

    def _write(self) -> None:
        started = time.perf_counter()
        log.info("rendering %d images into %s", sum(self.sizes.values()), self.root)
        folder = self.root / "images"
        folder.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        captions = 0
        for split in _STREAMS:
            for number, (scene, texts) in enumerate(self._described(split)):
                filename = f"{split}_{number:06d}.png"
                image = draw_scene(scene, self.recipe["image_side"])
                with new_file(folder / filename) as temporary:
                    image.save(temporary, format="PNG", compress_level=1)
                sentences = [
                    {"raw": text, "imgid": len(entries), "sentid": captions + place}
                    for place, text in enumerate(texts)
                ]
                captions += len(texts)
                entries.append(
                    {
                        "filename": filename,
                        "split": split,
                        "imgid": len(entries),
                        "sentids": [sentence["sentid"] for sentence in sentences],
                        "sentences": sentences,
                        "scene": asdict(scene),
                    }
                )
        content = {"dataset": "shapes", "recipe": self.recipe, "images": entries}
        with new_file(self.annotations) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        log.info("rendered in %.1f s", time.perf_counter() - started)

    def _require_recipe(self) -> None:
        try:
            found = json.loads(self.annotations.read_text(encoding="utf-8")).get("recipe")
        except (OSError, ValueError, AttributeError):
            return  # reading the annotations will report the error
        if found != self.recipe:
            differing = sorted(
                key for key in self.recipe if found is None or found.get(key) != self.recipe[key]
            )
            raise EdjeError(
                f"{self.name}: {self.root} was rendered by another recipe (differing: "
                f"{', '.join(differing)}). Remove the folder, or set data.root to a new one."
            )


def _require_possible(objects: int, siblings: int, name: str) -> None:
    most = min(len(SHAPES), len(COLOURS))
    if not 2 <= objects <= most:
        raise EdjeError(f"data.objects={objects}: expected 2 to {most}, no shape or colour twice.")
    if not 1 <= siblings <= 2 ** (objects - 1):
        raise EdjeError(
            f"data.{name}={siblings}: {objects} objects give 1 to {2 ** (objects - 1)} siblings. "
            f"Lower data.{name} or raise data.objects."
        )
