"""Claims about the script that trains the dual encoder of data=shapes, made small."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import SiglipModel

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.data.shapes.shapes_source import ShapesSource
from edje.images.decoder import open_image
from experiments.shapes_backbone import curves
from experiments.shapes_backbone.train import (
    Recipe,
    captions,
    contrastive,
    embedded_images,
    embedded_texts,
    image_processor,
    in_memory,
    new_siglip,
    train,
    word_tokenizer,
)

TEXTS = ["a red star above a blue ring", "on a grey background a ring below a star", "a ring"]
SIZES = {
    "width": 32,
    "num_heads": 2,
    "hidden_width": 48,
    "vision_layers": 1,
    "text_layers": 1,
    "image_size": 16,
    "patch_size": 4,
    "batch_size": 12,
    "score_every": 2,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShapesSource:
    return ShapesSource(
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        train_images=48,
        train_siblings=1,
        val_images=12,
        test_images=12,
        image_side=16,
    )


def trained(source: ShapesSource, folder: Path, seed: int = 0) -> torch.Tensor:
    train(Recipe(steps=5, seed=seed, **SIZES), source, folder)
    model = SiglipModel.from_pretrained(folder / "backbone", dtype=torch.float32)
    return torch.cat([weight.flatten() for weight in model.parameters()])


def test_it_leaves_a_backbone_that_loads_its_figures_and_its_curve(
    source: ShapesSource, tmp_path: Path
) -> None:
    figure = train(Recipe(steps=5, **SIZES), source, tmp_path / "run")
    backbone = HuggingFaceBackbone(pretrained=str(tmp_path / "run" / "backbone"))
    assert backbone.num_tokens == 16 and backbone.token_width == 32
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["t2i"]["recall@1"] == figure
    curves.main([tmp_path / "run"], tmp_path)
    table = pd.read_csv(tmp_path / "curves.csv")
    assert list(table["step"]) == [2, 4, 5] and (tmp_path / "curves.png").is_file()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    source: ShapesSource, tmp_path: Path
) -> None:
    one = trained(source, tmp_path / "one")
    assert torch.equal(one, trained(source, tmp_path / "again"))
    assert not torch.equal(one, trained(source, tmp_path / "other", seed=1))


def test_what_is_saved_sees_the_pixels_and_words_of_the_training(
    source: ShapesSource, tmp_path: Path
) -> None:
    train(Recipe(steps=1, **SIZES), source, tmp_path)
    backbone = HuggingFaceBackbone(pretrained=str(tmp_path / "backbone"))
    split = source.read("val")
    texts = captions(split)
    tokenizer = word_tokenizer(captions(source.read("train")))
    pairs = in_memory(split, texts, tokenizer, image_processor(16))
    pictures = [backbone.preprocess(open_image(image.path)) for image in split.images]
    encoded = backbone.encode_images(torch.stack(pictures)).features
    with torch.no_grad():
        images = embedded_images(backbone.model, pairs.pixels)
        words = embedded_texts(backbone.model, pairs.word_ids.flatten(0, 1))
    near = {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(images, F.normalize(encoded, dim=-1), **near)
    torch.testing.assert_close(words, F.normalize(backbone.encode_texts(texts), dim=-1), **near)


def test_the_pixels_in_training_are_those_of_the_image_processor(source: ShapesSource) -> None:
    processor = image_processor(24)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    processed = processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"][0]
    resized = Image.fromarray(noise).resize((24, 24), Image.Resampling(processor.resample))
    ours = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(processed, ours, atol=1e-2, rtol=0)


def test_a_word_is_a_token_between_cls_and_sep_and_texts_are_padded_to_the_longest() -> None:
    tokenizer = word_tokenizer(TEXTS)
    ids = tokenizer("a red ring")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "red", "ring", "[SEP]"]
    assert tokenizer("zebra")["input_ids"][1] == tokenizer.unk_token_id
    assert tokenizer.mask_token_id is not None and tokenizer.pad_token_id == 0
    assert tokenizer.model_max_length == len(TEXTS[1].split()) + 2
    model = new_siglip(Recipe(**SIZES), tokenizer)
    assert model.config.text_config.max_position_embeddings == 11


def test_the_loss_agrees_with_one_worked_by_hand() -> None:
    images, zero = torch.eye(2), torch.tensor(0.0)
    loss = contrastive(images, images[:, None], torch.tensor(3.0), zero)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_captions_of_one_image_are_no_rivals() -> None:
    images, zero = torch.eye(4)[:3], torch.tensor(0.0)
    twice = contrastive(images, images[:, None].expand(-1, 2, -1), torch.tensor(5.0), zero)
    rivals = math.log(1 + 4 * math.exp(-5)) + math.log(1 + 2 * math.exp(-5))
    assert twice.item() == pytest.approx(rivals / 2, rel=1e-4)
