"""Claims about the dual encoder that ships for data=shapes."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import edje
from edje.backbones.huggingface import HuggingFaceBackbone
from edje.captions import clean_caption
from edje.config.locations import conf_folder
from edje.data.shapes.scene_images import draw_scene
from edje.data.shapes.shapes_source import ShapesSource
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.metrics import first_hit_ranks, recall_at_k

SHIPPED = Path(edje.__file__).parent / "assets" / "shapes" / "backbone"
pytestmark = [
    pytest.mark.assets,
    pytest.mark.skipif(not SHIPPED.is_dir(), reason="the backbone is not in this tree"),
]


@pytest.fixture(scope="module")
def backbone() -> HuggingFaceBackbone:
    return HuggingFaceBackbone(pretrained=str(SHIPPED), attention="eager")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShapesSource:
    values = yaml.safe_load((conf_folder() / "data" / "shapes.yaml").read_text())
    values.pop("_target_")
    values |= {"cache_dir": str(tmp_path_factory.mktemp("cache")), "train_images": 100}
    return ShapesSource(**values)


def test_it_is_a_few_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 5_000_000


def test_it_knows_every_word_and_cuts_no_caption(
    backbone: HuggingFaceBackbone, source: ShapesSource
) -> None:
    for split in source.splits():
        ids = backbone.tokenizer([clean_caption(c.text) for c in source.read(split).captions])
        assert max(map(len, ids["input_ids"])) <= backbone.max_text_length
        assert all(backbone.tokenizer.unk_token_id not in row for row in ids["input_ids"])


def test_it_finds_the_siblings_but_does_not_tell_them_apart(
    backbone: HuggingFaceBackbone, source: ShapesSource
) -> None:
    split = source.read("val")
    scenes = source.scenes("val")
    pictures = [draw_scene(scene, source.recipe["image_side"]) for scene in scenes]
    images = torch.cat([_features(backbone, pictures[i : i + 100]) for i in range(0, 500, 100)])
    texts = backbone.encode_texts([clean_caption(c.text) for c in split.captions])
    lists = candidate_lists(
        backbone.project_images(images),
        backbone.project_texts(texts),
        torch.tensor(split.image_of_caption()),
        "t2i",
        20,
    )
    recall = recall_at_k(first_hit_ranks(lists.scores, lists.relevant), (1, 10, 20))
    assert recall[1] < 0.6 and recall[10] > 0.85 and recall[20] > 0.9


def _features(backbone: HuggingFaceBackbone, pictures: list[Image.Image]) -> torch.Tensor:
    pixels = torch.stack([backbone.preprocess(picture) for picture in pictures])
    return backbone.encode_images(pixels).features
