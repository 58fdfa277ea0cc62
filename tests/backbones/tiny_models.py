"""Tiny random-weight dual encoders, written as `save_pretrained` folders on the spot."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "brown", "dog", "runs", "in", "the", "snow"]
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def save_tokenizer(folder: Path, lower_case: bool) -> None:
    """Whole words, `[BOS] words [EOS]`; without lower-casing a capital letter is unknown."""
    tokenizer = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
    ).save_pretrained(folder)


def save_clip(folder: Path, seed: int = 0, image_size: int = 16, patch_size: int = 8) -> Path:
    torch.manual_seed(seed)
    vision = VISION | {"image_size": image_size, "patch_size": patch_size}
    config = CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=20)
    CLIPModel(config).save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square).save_pretrained(folder)
    save_tokenizer(folder, lower_case=True)
    return folder


def save_siglip(folder: Path, seed: int = 0, image_size: int = 16, patch_size: int = 8) -> Path:
    torch.manual_seed(seed)
    text = TEXT | {"projection_size": 32}
    vision = VISION | {"image_size": image_size, "patch_size": patch_size}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    SiglipImageProcessor(size=square).save_pretrained(folder)
    save_tokenizer(folder, lower_case=False)
    return folder
