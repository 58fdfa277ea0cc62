"""Texts of random words, to find int8 ranges before any query is known."""

import torch
from transformers import PreTrainedTokenizerFast

from edje.language_model import tokenize
from edje.records import TextBatch

COUNT, LONGEST = 64, 30  # texts, and word pieces of one


def example_texts(tokenizer: PreTrainedTokenizerFast) -> TextBatch:
    """Texts of 1 to 30 word pieces from the whole vocabulary; the same texts each time.

    Ranges found on a single short query are too narrow for the next one.
    """
    draws = torch.Generator().manual_seed(0)
    special = set(tokenizer.all_special_ids)
    pieces = torch.tensor([row for row in range(len(tokenizer)) if row not in special])
    lengths = torch.randint(1, LONGEST + 1, (COUNT,), generator=draws).tolist()
    rows = [torch.randint(len(pieces), (length,), generator=draws) for length in lengths]
    return tokenize(tokenizer, [str(tokenizer.decode(pieces[row])) for row in rows])
