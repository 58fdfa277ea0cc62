"""Words that tiny models know, the one tokenizer of them, and captions."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNKNOWN, CLS, SEP, MASK = range(len(SPECIAL))
WORDS = ["red", "green", "blue", "small", "large", "star", "circle", "square", "left", "right"]
SENTENCE = ["a", "brown", "dog", "runs", "in", "the", "snow"]


def tiny_tokenizer(
    words: Sequence[str] = WORDS,
    lower_case: bool = False,
    template: str = "[CLS] $A [SEP]",
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Whole words, `[CLS] words [SEP]`; without lower-casing a capital letter is unknown.

    Options are those of transformers' tokenizers, such as `model_max_length`.
    """
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    if lower_case:
        tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        **options,
    )


def tiny_captions(count: int = 8) -> list[str]:
    """Different captions of different lengths."""
    generator = torch.Generator().manual_seed(1)
    captions: list[str] = []
    while len(captions) < count:
        length = int(torch.randint(2, 6, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        caption = " ".join(WORDS[pick] for pick in picks)
        if caption not in captions:
            captions.append(caption)
    return captions
