"""Tiny image towers of random weights, written on the spot as those who publish one write them."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from tests.tiny.words import CLS, PAD, SENTENCE, SEP, SPECIAL, tiny_tokenizer

TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "vocab_size": len(SPECIAL) + len(SENTENCE),
    "pad_token_id": PAD,
    "bos_token_id": CLS,
    "eos_token_id": SEP,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def save_clip(folder: Path, seed: int = 0, image_size: int = 16, patch_size: int = 8) -> Path:
    """A CLIP that knows `SENTENCE`, lower-cased, as a `save_pretrained` folder."""
    torch.manual_seed(seed)
    vision = VISION | {"image_size": image_size, "patch_size": patch_size}
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=20)
    CLIPModel(config).save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square).save_pretrained(folder)
    tiny_tokenizer(SENTENCE, lower_case=True).save_pretrained(folder)
    return folder


def siglip_config(text: dict[str, Any], vision: dict[str, Any]) -> SiglipConfig:
    """Sizes of both towers; what is not given is transformers' own."""
    return SiglipConfig(text_config=text, vision_config=vision)


def save_siglip(folder: Path, seed: int = 0, image_size: int = 16, patch_size: int = 8) -> Path:
    """A SigLIP that knows `SENTENCE` as it is, without a longest caption in its tokenizer."""
    vision = VISION | {"image_size": image_size, "patch_size": patch_size}
    config = siglip_config(TEXT | {"projection_size": VISION["hidden_size"]}, vision)
    tiny_tokenizer(SENTENCE).save_pretrained(folder)
    return _save_siglip(folder, seed, config)


def make_siglip(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """The SigLIP of the tiny world: it knows `WORDS` and sees 16 patches of 8 pixels."""
    tower = {
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tokenizer = tiny_tokenizer(model_max_length=16)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": width}
    tokenizer.save_pretrained(folder)
    config = siglip_config(tower | text, tower | {"image_size": 32, "patch_size": 8})
    return _save_siglip(folder, seed, config)


def _save_siglip(folder: Path, seed: int, config: SiglipConfig) -> Path:
    torch.manual_seed(seed)
    SiglipModel(config).save_pretrained(folder)
    side = config.vision_config.image_size
    SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def save_timm(file: Path, model: str, **arguments: Any) -> Path:
    """The weights of one of timm's towers."""
    torch.manual_seed(0)
    save_file(timm.create_model(model, pretrained=False, **arguments).state_dict(), file)
    return file
