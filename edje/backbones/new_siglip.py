"""A small SigLIP with fresh weights, to be trained from scratch and loaded like any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class NewSiglip:
    """A dual encoder in training with what turns images and captions into its inputs."""

    model: SiglipModel
    tokenizer: PreTrainedTokenizerFast
    image_processor: SiglipImageProcessor
    image_size: int  # side of the square that the vision tower reads, in pixels

    def resized(self, image: Image.Image) -> UInt8[Tensor, "3 side side"]:
        """The image as the processor resizes it, before it is scaled to [-1, 1]."""
        side = self.image_size
        small = image.resize((side, side), Image.Resampling(self.image_processor.resample))
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def word_ids(self, captions: Sequence[str]) -> Int[Tensor, "captions length"]:
        """Captions padded to the text tower's full length, which is read without a mask."""
        batch = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return batch["input_ids"]

    def save(self, folder: Path) -> None:
        """Write model (16-bit safetensors), tokenizer and image processor."""
        half = SiglipModel(self.model.config)
        half.load_state_dict(self.model.state_dict())
        half.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def new_siglip(
    captions: Sequence[str],
    *,
    width: int = 96,
    num_heads: int = 3,
    hidden_width: int = 384,
    vision_layers: int = 4,
    text_layers: int = 2,
    image_size: int = 60,
    patch_size: int = 10,
    temperature: float = 15.0,
) -> NewSiglip:
    """A SigLIP of the given sizes whose vocabulary and text length are those of `captions`.

    Args:
        captions: cleaned training captions; their words become the vocabulary.
        width: of both towers and of the embedding.
        temperature: the factor on the cosines in the contrastive loss at the start.
    """
    tokenizer = word_tokenizer(captions)
    length = max(len(caption.split()) for caption in captions) + 2
    tokenizer.model_max_length = length
    tower = {
        "hidden_size": width,
        "intermediate_size": hidden_width,
        "num_attention_heads": num_heads,
        "hidden_act": "gelu",
    }
    config = SiglipConfig(
        text_config=tower
        | {
            "num_hidden_layers": text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": length,
            "projection_size": width,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
        },
        vision_config=tower
        | {"num_hidden_layers": vision_layers, "image_size": image_size, "patch_size": patch_size},
    )
    config._attn_implementation = "eager"  # several times faster than sdpa here on a CPU
    model = SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(temperature)))
        model.logit_bias.zero_()
    processor = SiglipImageProcessor(
        size={"height": image_size, "width": image_size}, resample=Image.Resampling.BILINEAR
    )
    return NewSiglip(model, tokenizer, processor, image_size)


def word_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word per token, `[CLS] … [SEP]` around them: for the text tower and the joint encoder."""
    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
