"""Claims about the one form of identities: whichever transformers wrote them, they mean the same.

The settings below were recorded with these versions of transformers, word for word.
"""

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
SHAPES_SETTINGS = (
    '{"class": "SiglipImageProcessorPil", "do_normalize": true, "do_rescale": true, '
    '"do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], '
    '"resample": 2, "rescale_factor": 0.00392156862745098, "size": "SizeDict(height=96, width=96, '
    'longest_edge=None, shortest_edge=None, max_height=None, max_width=None%s)"}'
)
WITHOUT_PIXELS, WITH_PIXELS = "", ", min_pixels=None, max_pixels=None"  # two more fields
SHAPES_BY_VERSION = {
    "5.4.0": SHAPES_SETTINGS % WITHOUT_PIXELS,
    "5.10.0": SHAPES_SETTINGS % WITHOUT_PIXELS,
    "5.17.0": SHAPES_SETTINGS % WITH_PIXELS,
    "5.24.0": SHAPES_SETTINGS % WITH_PIXELS,
}

CLIP_SETTINGS = (
    '{"class": "%s", "crop_size": %s, "do_center_crop": true, "do_normalize": true, '
    '"do_rescale": true, "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073], '
    '"image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, '
    '"rescale_factor": 0.00392156862745098, "size": %s}'
)
PLAIN = '{"height": 224, "width": 224}', '{"shortest_edge": 224}'
PRINTED = (
    '"SizeDict(height=224, width=224, longest_edge=None, shortest_edge=None, max_height=None, '
    'max_width=None)"',
    '"SizeDict(height=None, width=None, longest_edge=None, shortest_edge=224, max_height=None, '
    'max_width=None)"',
)
PRINTED_LONGER = tuple(text.replace(")", WITH_PIXELS + ")") for text in PRINTED)
CLIP_OF_PIL = {
    "5.0.0": CLIP_SETTINGS % ("CLIPImageProcessor", *PLAIN),  # that of PIL in those days
    "5.1.0": CLIP_SETTINGS % ("CLIPImageProcessor", *PLAIN),
    "5.4.0": CLIP_SETTINGS % ("CLIPImageProcessorPil", *PRINTED),
    "5.10.0": CLIP_SETTINGS % ("CLIPImageProcessorPil", *PRINTED),
    "5.17.0": CLIP_SETTINGS % ("CLIPImageProcessorPil", *PRINTED_LONGER),
    "5.24.0": CLIP_SETTINGS % ("CLIPImageProcessorPil", *PRINTED_LONGER),
}
CLIP_OF_TORCHVISION = {
    "5.0.0": CLIP_SETTINGS % ("CLIPImageProcessorFast", *PLAIN),
    "5.1.0": CLIP_SETTINGS % ("CLIPImageProcessorFast", *PLAIN),
    "5.4.0": CLIP_SETTINGS % ("CLIPImageProcessor", *PRINTED),
    "5.17.0": CLIP_SETTINGS % ("CLIPImageProcessor", *PRINTED_LONGER),
    "5.24.0": CLIP_SETTINGS % ("CLIPImageProcessor", *PRINTED_LONGER),
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


def shapes_identity(settings: str) -> dict[str, str | int | float]:
    """What the shipped backbone's identity was with each of the versions."""
    return {
        "backbone": "HuggingFaceBackbone",
        "model": "siglip",
        "weights": "b1b1c99860644b46",
        "layer": -3,
        "class_token": "False",
        "preprocessing": settings,
        "num_tokens": 16,
        "token_width": 96,
    }


# What no version recorded at the time, of the shipped backbone.
LATER_FACTS = {
    "configuration": '{"hidden_act": "gelu", "layer_norm_eps": 1e-06, "num_attention_heads": 3}'
}


@pytest.fixture(scope="module")
def backbone() -> HuggingFaceBackbone:
    return HuggingFaceBackbone(pretrained=SHAPES, layer=-3, attention="eager")


def preprocessing(settings: str) -> dict:
    return json.loads(str(canonical_identity({"preprocessing": settings})["preprocessing"]))


@pytest.mark.parametrize("version", CLIP_OF_PIL)
def test_the_settings_of_every_version_mean_the_same_steps(version):
    assert preprocessing(CLIP_OF_PIL[version]) == CLIP


@pytest.mark.parametrize("version", CLIP_OF_TORCHVISION)
def test_another_library_makes_other_pixels_in_every_version(version):
    assert preprocessing(CLIP_OF_TORCHVISION[version]) == CLIP | {"library": "torchvision"}


@pytest.mark.parametrize("version", SHAPES_BY_VERSION)
def test_an_identity_of_any_version_is_that_of_the_backbone_now(version, backbone):
    written = shapes_identity(SHAPES_BY_VERSION[version])
    assert canonical_identity(written) | LATER_FACTS == backbone.identity()
    assert differing_identity(written, backbone.identity()) == []


def test_a_canonical_identity_and_any_other_fact_stay_as_they_are(backbone):
    identity = backbone.identity()
    assert canonical_identity(identity) == identity
    for other in ('{"resize": "crop", "image_size": 224}', "none", "[1]", '{"class": "Mine"}'):
        facts = {"preprocessing": other, "layer": -1}
        assert canonical_identity(facts) == facts
    assert canonical_identity({"class_token": "False"}) == {"class_token": "False"}


def test_objects_enumerations_and_names_are_plain_values_in_it():
    from torchvision.transforms import InterpolationMode

    settings = json.loads(CLIP_OF_PIL["5.24.0"]) | {
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
    settings = json.loads(CLIP_OF_PIL["5.24.0"])
    assert json.loads(canonical_pixels(settings | change)).keys() == CLIP.keys() - gone


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
    ],
)
def test_what_changes_pixels_changes_the_identity(change):
    settings = json.loads(CLIP_OF_PIL["5.24.0"])
    assert canonical_pixels(settings | change) != canonical_pixels(settings)


@pytest.mark.parametrize("version", SHAPES_BY_VERSION)
def test_a_store_of_any_version_is_found_and_opens(version, backbone, tmp_path):
    """Written under the folder name that its own form of the facts gives."""
    beside = {"codec": "fp16", "images": "0123"}
    written = {**shapes_identity(SHAPES_BY_VERSION[version]), **beside}
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
    written = {**shapes_identity(SHAPES_BY_VERSION["5.4.0"]), "codec": "fp16"}
    make_store(tmp_path / "new", fingerprint=asked)
    as_recorded(tmp_path / "new" / "store.json", written, tmp_path / "shapes-val", "raw")
    today = tmp_path / "shapes-val" / f"raw-{asked.digest[:12]}"
    make_store(today, fingerprint=asked)
    assert store_folder(tmp_path, "shapes", "val", "raw", asked) == today


def test_facts_recorded_later_tell_stores_apart_only_where_both_have_them(backbone, tmp_path):
    asked = Fingerprint(backbone.identity())
    other = Fingerprint({**asked.fields, "configuration": "{}"})
    former = Fingerprint(shapes_identity(SHAPES_BY_VERSION["5.24.0"]))

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


def test_an_unfinished_store_of_another_version_is_continued(backbone, tmp_path):
    asked = Fingerprint({**backbone.identity(), "codec": "fp16"})
    written = {**shapes_identity(SHAPES_BY_VERSION["5.4.0"]), "codec": "fp16"}

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


def test_a_table_of_features_of_another_version_is_found_and_opens(backbone, tmp_path):
    asked = Fingerprint({**backbone.identity(), "captions": "0123"})
    written = {**shapes_identity(SHAPES_BY_VERSION["5.17.0"]), "captions": "0123"}
    EmbeddingTable.write(tmp_path / "new", asked, ["a", "b"], torch.ones(2, 3))
    folder = as_recorded(tmp_path / "new" / "table.json", written, tmp_path / "shapes-val", "text")
    assert store_folder(tmp_path, "shapes", "val", "text", asked) == folder
    assert EmbeddingTable.open(folder, asked).ids == ("a", "b")


@pytest.mark.parametrize("version", SHAPES_BY_VERSION)
def test_a_checkpoint_of_any_version_opens_and_fits_its_backbone(version, backbone, tmp_path):
    written = shapes_identity(SHAPES_BY_VERSION[version])
    save_checkpoint(replace(tiny_checkpoint(), backbone=written), tmp_path / "model.ckpt")
    loaded = load_checkpoint(tmp_path / "model.ckpt")
    assert loaded.backbone | LATER_FACTS == backbone.identity()
    check_fit(loaded, backbone, "joint")
    check_fit(replace(loaded, backbone=written), backbone, "joint")
    other = written | {"preprocessing": SHAPES_SETTINGS.replace("=96", "=95") % WITH_PIXELS}
    with pytest.raises(EdjeError, match=r"preprocessing: trained on .*95.*, given .*96"):
        check_fit(replace(loaded, backbone=other), backbone, "joint")
