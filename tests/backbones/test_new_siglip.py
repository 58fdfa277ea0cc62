from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.new_siglip import NewSiglip, new_siglip, word_tokenizer

CAPTIONS = ["a red star above a blue ring", "on a grey background a ring below a star", "a ring"]


@pytest.fixture
def encoder() -> NewSiglip:
    torch.manual_seed(0)
    return new_siglip(
        CAPTIONS,
        width=32,
        num_heads=2,
        hidden_width=48,
        vision_layers=1,
        text_layers=1,
        image_size=24,
        patch_size=8,
    )


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_what_is_saved_loads_as_any_siglip_and_gives_the_same_features(
    encoder: NewSiglip, image: Image.Image, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    backbone = HuggingFaceBackbone(pretrained=str(tmp_path))
    assert (backbone.num_tokens, backbone.token_width, backbone.max_text_length) == (9, 32, 11)
    encoder.model.eval()
    with torch.no_grad():
        pixels = encoder.resized(image)[None].float() / 127.5 - 1
        ours = encoder.model.get_image_features(pixels)
        words = encoder.model.get_text_features(encoder.word_ids(CAPTIONS))
    theirs = backbone.encode_images(backbone.preprocess(image)[None])
    half = {"atol": 0.02, "rtol": 0.02}  # weights are kept in 16 bit
    torch.testing.assert_close(theirs.tokens, ours.last_hidden_state, **half)
    torch.testing.assert_close(theirs.features, ours.pooler_output, **half)
    torch.testing.assert_close(backbone.encode_texts(CAPTIONS), words.pooler_output, **half)


def test_the_pixels_in_training_are_those_of_the_image_processor(
    encoder: NewSiglip, image: Image.Image
) -> None:
    processed = encoder.image_processor(image, return_tensors="pt")["pixel_values"][0]
    resized = encoder.resized(image).float() / 127.5 - 1
    torch.testing.assert_close(processed, resized, atol=1e-2, rtol=0)


def test_a_word_is_a_token_between_cls_and_sep() -> None:
    tokenizer = word_tokenizer(CAPTIONS)
    ids = tokenizer("a red ring")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "ring", "[SEP]"]
    assert tokenizer("zebra")["input_ids"][1] == tokenizer.unk_token_id
    assert tokenizer.mask_token_id is not None and tokenizer.pad_token_id == 0


def test_captions_are_padded_to_the_length_of_the_longest_in_training(encoder: NewSiglip) -> None:
    ids = encoder.word_ids(["a ring", CAPTIONS[0]])
    assert ids.shape == (2, len(CAPTIONS[1].split()) + 2)
    assert ids[0].tolist().count(0) == 7
