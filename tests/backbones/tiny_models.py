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
SQUARE = {"height": 16, "width": 16}


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


def save_clip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    CLIPModel(
        CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=20)
    ).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE).save_pretrained(folder)
    save_tokenizer(folder, lower_case=True)
    return folder


def save_siglip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    text = TEXT | {"projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    SiglipImageProcessor(size=SQUARE).save_pretrained(folder)
    save_tokenizer(folder, lower_case=False)
    return folder
