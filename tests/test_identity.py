"""Claims about identities: one form for pixels, and facts that versions recorded or didn't."""

import json
from dataclasses import replace

import pytest
import torch
from transformers.image_utils import SizeDict

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.errors import EdjeError
from edje.identity import canonical_identity, canonical_pixels
from edje.index.built_with import differences as index_differences
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.inference.run_choices import differing_identity
from edje.pipeline.evaluation import check_fit
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.store import TokenStore
from edje.tokens.text import EmbeddingTable
from tests.tiny.rerankers import tiny_checkpoint
from tests.tiny.stores import as_recorded, encode, make_store

SHAPES = "edje/assets/shapes/backbone"  # SigLIP at 96 pixels, resized bilinearly
TEACHER_SETTINGS = (  # word for word
    '{"class": "SiglipImageProcessorPil", "do_normalize": true, "do_rescale": true, '
    '"do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], '
    '"resample": 2, "rescale_factor": 0.00392156862745098, "size": "SizeDict(height=96, width=96, '
    "longest_edge=None, shortest_edge=None, max_height=None, max_width=None, min_pixels=None, "
    'max_pixels=None)"}'
)
SHAPES_PIXELS = (  # of the same steps, as every release wrote them
    '{"family": "siglip", "library": "pil", "mean": [0.5, 0.5, 0.5], "resample": 2, "rescale": '
    '0.00392156862745098, "resize": {"height": 96, "width": 96}, "std": [0.5, 0.5, 0.5]}'
)
CLIP_SETTINGS = {
    "class": "CLIPImageProcessorPil",
    "backend": "pil",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CLIP = {
    "family": "clip",
    "library": "pil",
    "resize": {"shortest_edge": 224},
    "resample": 3,
    "center_crop": {"height": 224, "width": 224},
    "rescale": 1 / 255,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}


def shapes_identity(pixels: str = SHAPES_PIXELS) -> dict[str, str | int | float]:
    """What version 0.1.0 recorded of the shipped backbone."""
    return {
        "backbone": "HuggingFaceBackbone",
        "model": "siglip",
        "weights": "b1b1c99860644b46",
        "layer": -3,
        "class_token": "False",
        "preprocessing": pixels,
        "num_tokens": 16,
        "token_width": 96,
    }


# What it didn't record.
LATER_FACTS = {
    "configuration": '{"hidden_act": "gelu", "layer_norm_eps": 1e-06, "num_attention_heads": 3}'
}


@pytest.fixture(scope="module")
def backbone() -> HuggingFaceBackbone:
    return HuggingFaceBackbone(pretrained=SHAPES, layer=-3, attention="eager")


def test_the_settings_that_the_teacher_records_are_those_of_the_backbone_now(backbone):
    read = canonical_identity(shapes_identity(TEACHER_SETTINGS))
    assert read == shapes_identity()
    assert read | LATER_FACTS == backbone.identity()


@pytest.mark.parametrize("name", ["CLIPImageProcessorPil", "CLIPImageProcessor", "CLIP"])
def test_the_family_of_an_image_processor_is_in_the_name_of_its_class(name):
    assert json.loads(canonical_pixels(CLIP_SETTINGS | {"class": name})) == CLIP


def test_a_canonical_identity_and_any_other_fact_stay_as_they_are(backbone):
    identity = backbone.identity()
    assert canonical_identity(identity) == identity
    for other in ('{"resize": "crop", "image_size": 224}', "none", "[1]", '{"class": "Mine"}'):
        facts = {"backbone": "HuggingFaceBackbone", "preprocessing": other, "layer": -1}
        assert canonical_identity(facts) == facts
    mine = {"backbone": "Mine", "preprocessing": TEACHER_SETTINGS}  # compared as it is
    assert canonical_identity(mine) == mine
    assert canonical_identity({"class_token": "False"}) == {"class_token": "False"}


def test_objects_enumerations_and_names_are_plain_values_in_it():
    from torchvision.transforms import InterpolationMode

    settings = CLIP_SETTINGS | {
        "size": SizeDict(shortest_edge=224),
        "crop_size": SizeDict(height=224, width=224),
        "image_mean": torch.tensor(CLIP["mean"], dtype=torch.float64),
        "image_std": tuple(CLIP["std"]),
    }
    for resample in (3, "bicubic", InterpolationMode.BICUBIC, "PILImageResampling.BICUBIC"):
        assert json.loads(canonical_pixels(settings | {"resample": resample})) == CLIP


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"do_center_crop": False}, {"center_crop"}),
        ({"do_center_crop": None}, {"center_crop"}),
        ({"do_resize": False}, {"resize", "resample"}),
        ({"do_rescale": False}, {"rescale"}),
        ({"do_normalize": False}, {"mean", "std"}),
    ],
)
def test_a_step_that_is_off_has_no_settings(change, gone):
    assert json.loads(canonical_pixels(CLIP_SETTINGS | change)).keys() == CLIP.keys() - gone


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 2},
        {"size": {"shortest_edge": 225}},
        {"size": {"height": 224, "width": 224}},
        {"crop_size": {"height": 224, "width": 223}},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5, 0.5, 0.5]},
        {"image_std": [0.5, 0.5, 0.5]},
        {"class": "ViTImageProcessorPil"},
        {"backend": "torchvision"},
    ],
)
def test_what_changes_pixels_changes_the_identity(change):
    assert canonical_pixels(CLIP_SETTINGS | change) != canonical_pixels(CLIP_SETTINGS)


def test_a_store_of_an_earlier_version_is_found_and_opens(backbone, tmp_path):
    """Written under the folder name that its own facts give."""
    beside = {"codec": "fp16", "images": "0123"}
    written = {**shapes_identity(), **beside}
    asked = Fingerprint({**backbone.identity(), **beside})
    make_store(tmp_path / "new", fingerprint=asked)
    folder = as_recorded(tmp_path / "new" / "store.json", written, tmp_path / "shapes-val", "raw")
    assert folder.name[4:] != asked.digest[:12]
    found = store_folder(tmp_path, "shapes", "val", "raw", asked)
    assert found == folder
    assert len(TokenStore.open(found, asked)) == 50
    for other in ({"layer": -2}, {"images": "4567"}):
        elsewhere = Fingerprint({**asked.fields, **other})
        assert store_folder(tmp_path, "shapes", "val", "raw", elsewhere) != folder
        with pytest.raises(EdjeError, match=next(iter(other))):
            TokenStore.open(found, elsewhere)


def test_a_store_under_todays_name_comes_first(backbone, tmp_path):
    asked = Fingerprint({**backbone.identity(), "codec": "fp16"})
    written = {**shapes_identity(), "codec": "fp16"}
    make_store(tmp_path / "new", fingerprint=asked)
    as_recorded(tmp_path / "new" / "store.json", written, tmp_path / "shapes-val", "raw")
    today = tmp_path / "shapes-val" / f"raw-{asked.digest[:12]}"
    make_store(today, fingerprint=asked)
    assert store_folder(tmp_path, "shapes", "val", "raw", asked) == today


def test_facts_recorded_later_tell_stores_apart_only_where_both_have_them(backbone, tmp_path):
    asked = Fingerprint(backbone.identity())
    other = Fingerprint({**asked.fields, "configuration": "{}"})
    former = Fingerprint(shapes_identity())

    def found(wanted):
        return store_folder(tmp_path, "shapes", "val", "raw", wanted)

    make_store(today := found(asked), fingerprint=asked)
    assert found(former) == today != found(other)  # of a checkpoint made before
    assert len(TokenStore.open(today, former)) == 50
    with pytest.raises(EdjeError, match="configuration: store has"):
        TokenStore.open(today, other)
    before = tmp_path / "shapes-val" / f"raw-{former.digest[:12]}"
    make_store(before, fingerprint=former)
    assert found(asked) == today and found(former) == found(other) == before


def test_an_index_made_before_a_fact_was_recorded_fits():
    index = {"backbone.layer": -2, "codec": "int8"}
    assert index_differences(index, index | {"backbone.configuration": "{}"}) == []
    assert len(index_differences(index, index | {"backbone.layer": -1})) == 1


def test_a_damaged_neighbour_is_passed_over(backbone, tmp_path):
    asked = Fingerprint(backbone.identity())
    for number, text in enumerate((b"{", b"[]", b'{"fingerprint": 1}', b"\xff")):
        (tmp_path / "shapes-val" / f"raw-{number}").mkdir(parents=True)
        (tmp_path / "shapes-val" / f"raw-{number}" / "store.json").write_bytes(text)
    found = store_folder(tmp_path, "shapes", "val", "raw", asked)
    assert found.name == f"raw-{asked.digest[:12]}"


def test_an_unfinished_store_of_an_earlier_version_is_continued(backbone, tmp_path):
    asked = Fingerprint({**backbone.identity(), "codec": "fp16"})
    written = {**shapes_identity(), "codec": "fp16"}

    def breaks(rows):
        if rows[0] >= 24:  # after three shards of 8
            raise RuntimeError("power failure")
        return encode(rows)

    with pytest.raises(RuntimeError, match="power failure"):
        make_store(tmp_path / "new", fingerprint=asked, encode=breaks)
    as_recorded(tmp_path / "new" / "plan.json", written, tmp_path / "shapes-val", "raw")
    encoded = []

    def counts(rows):
        encoded.extend(rows)
        return encode(rows)

    found = store_folder(tmp_path, "shapes", "val", "raw", asked)
    make_store(found, fingerprint=asked, encode=counts)
    assert encoded == list(range(24, 50))
    finished = TokenStore.open(found, asked)
    assert len(finished) == 50
    assert finished.manifest.fingerprint == Fingerprint(written)  # it claims no more than it knows


def test_a_table_of_features_of_an_earlier_version_is_found_and_opens(backbone, tmp_path):
    asked = Fingerprint({**backbone.identity(), "captions": "0123"})
    written = {**shapes_identity(), "captions": "0123"}
    EmbeddingTable.write(tmp_path / "new", asked, ["a", "b"], torch.ones(2, 3))
    folder = as_recorded(tmp_path / "new" / "table.json", written, tmp_path / "shapes-val", "text")
    assert store_folder(tmp_path, "shapes", "val", "text", asked) == folder
    assert EmbeddingTable.open(folder, asked).ids == ("a", "b")


@pytest.mark.parametrize("pixels", [SHAPES_PIXELS, TEACHER_SETTINGS])
def test_a_checkpoint_of_an_earlier_version_fits_its_backbone(pixels, backbone, tmp_path):
    written = replace(tiny_checkpoint(), backbone=shapes_identity(pixels))
    save_checkpoint(written, tmp_path / "model.ckpt")
    loaded = load_checkpoint(tmp_path / "model.ckpt")
    assert loaded.backbone | LATER_FACTS == backbone.identity()
    assert differing_identity(loaded.backbone, backbone.identity()) == []
    check_fit(loaded, backbone, "joint")
    other = shapes_identity(SHAPES_PIXELS.replace("96", "95"))
    with pytest.raises(EdjeError, match=r"preprocessing: trained on .*95.*, given .*96"):
        check_fit(replace(loaded, backbone=other), backbone, "joint")
