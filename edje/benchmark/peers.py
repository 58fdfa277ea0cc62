"""Other methods that compute the same scores, each as its users would run it."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from edje.benchmark.blip import BlipRoad, blip_tokens
from edje.benchmark.entry import SCORER, Entry, Peer
from edje.benchmark.models import language_model_config, random_text
from edje.benchmark.settings import Benchmark, Lane
from edje.models.adapters import BackboneFacts, TokenCompressionAdapter
from edje.models.heads import MatchHead

log = logging.getLogger(__name__)


def peer_entry(
    lane: Lane, sizes: Benchmark, tokens: int, k: int, device: torch.device
) -> Entry | None:
    """One query with k candidates in a peer's lane; None, with a warning, if it can't run."""
    call: Peer | None
    if lane == "research":
        call = ResearchRoad(sizes, tokens, k, device)
    elif lane == "lean":
        call = LeanRoad(sizes, tokens, k, device)
    elif lane == "cross_encoder":
        call = cross_encoder(sizes, tokens, k, device)
    else:
        k, tokens = sizes.blip_candidates, blip_tokens(sizes)
        call = BlipRoad(sizes, k, device, with_vision=lane == "blip_vision")
    if call is None:
        return None
    return Entry(
        lane=lane,
        tier=SCORER,
        tokens=tokens,
        k=k,
        call=call,
        batch=call.batch,
        dtype=sizes.dtype(device),
    )


class PaddedRoad(Peer):
    """The common part of both lanes on transformers: the input of one query with k candidates.

    Every candidate has its own copy of the text and a mask, even if nothing is padded.
    """

    def __init__(self, sizes: Benchmark, tokens: int, k: int, device: torch.device):
        super().__init__(sizes, k, device)
        length = sizes.text_tokens
        self.ids = random_text(sizes, length).to(device)
        self.separator = torch.full((1, 1), sizes.vocabulary - 1, device=device)
        self.mask = torch.ones(k, length + tokens + 1, dtype=torch.long, device=device)
        self.segments = torch.ones_like(self.mask)
        self.segments[:, :length] = 0
        self.head = MatchHead(sizes.width).to(device)

    def inputs(self, words: torch.nn.Module, visual: Tensor) -> Tensor:
        """`[CLS] caption [SEP] v_1 … v_m [SEP]` of each candidate, embedded."""
        k = len(visual)
        text, separator = words(self.ids), words(self.separator)
        return torch.cat([text.expand(k, -1, -1), visual, separator.expand(k, -1, -1)], dim=1)


class ResearchRoad(PaddedRoad):
    """A masked-language BERT with all logits and hidden states; runs the adapter per candidate."""

    def __init__(self, sizes: Benchmark, tokens: int, k: int, device: torch.device):
        super().__init__(sizes, tokens, k, device)
        dtype = sizes.dtype(device)
        config = language_model_config(sizes, tokens)
        self.model = BertForMaskedLM(config).eval().to(device, dtype)
        heads = max(sizes.raw_width // 64, 1)
        facts = BackboneFacts(
            sizes.raw_tokens, sizes.raw_width, heads, 1e-6, sizes.text_encoder_width
        )
        adapter = TokenCompressionAdapter(
            facts.beside(sizes.width),
            num_tokens=tokens,
            hidden_width=sizes.adapter_hidden_width,
        )
        # The counter of arithmetic fails on a learned query that requires a gradient.
        self.adapter = adapter.eval().requires_grad_(False).to(device, dtype)
        raw = torch.randn(k, sizes.raw_tokens, sizes.raw_width)
        self.raw = raw.to(device, dtype)

    @torch.inference_mode()
    def scores(self, pairs: int, batch_size: int) -> Tensor:
        """See `Peer.scores`."""
        scores = []
        for rows in torch.arange(pairs, device=self.device).split(batch_size):
            visual = self.adapter(self.raw[rows])
            output = self.model(
                inputs_embeds=self.inputs(self.model.get_input_embeddings(), visual),
                attention_mask=self.mask[rows],
                token_type_ids=self.segments[rows],
                output_hidden_states=True,
            )
            scores.append(self.head(output.hidden_states[-1][:, 0]))
        return torch.cat(scores).cpu()


class LeanRoad(PaddedRoad):
    """A plain BERT over stored tokens on the device."""

    def __init__(self, sizes: Benchmark, tokens: int, k: int, device: torch.device):
        super().__init__(sizes, tokens, k, device)
        dtype = sizes.dtype(device)
        model = BertModel(language_model_config(sizes, tokens), add_pooling_layer=False)
        self.model = model.eval().to(device, dtype)
        self.visual = torch.randn(k, tokens, sizes.width).to(device, dtype)

    @torch.inference_mode()
    def scores(self, pairs: int, batch_size: int) -> Tensor:
        """See `Peer.scores`."""
        scores = []
        for rows in torch.arange(pairs, device=self.device).split(batch_size):
            words = self.model.get_input_embeddings()
            output = self.model(
                inputs_embeds=self.inputs(words, self.visual[rows]),
                attention_mask=self.mask[rows],
                token_type_ids=self.segments[rows],
            )
            scores.append(self.head(output.last_hidden_state[:, 0]))
        return torch.cat(scores).cpu()


class CrossEncoderRoad(Peer):
    """sentence-transformers' CrossEncoder, which makes its own batches, over one pair of texts."""

    def __init__(
        self, model: Any, texts: tuple[str, str], sizes: Benchmark, k: int, device: torch.device
    ):
        super().__init__(sizes, k, device)
        self.model, self.texts = model, texts

    def scores(self, pairs: int, batch_size: int) -> Tensor:
        """See `Peer.scores`."""
        scores: Tensor = self.model.predict(
            [self.texts] * pairs,
            batch_size=batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return scores.cpu()


def cross_encoder(
    sizes: Benchmark, tokens: int, k: int, device: torch.device
) -> CrossEncoderRoad | None:
    """sentence-transformers' CrossEncoder on text pairs as long as text and image together."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        log.warning(
            "lane cross_encoder is skipped: sentence-transformers is not installed. "
            "pip install 'edje[benchmark]'."
        )
        return None
    config = language_model_config(sizes, tokens)
    config.num_labels = 1
    with tempfile.TemporaryDirectory() as folder:
        BertForSequenceClassification(config).save_pretrained(Path(folder))
        made_up_words(sizes.vocabulary, config.max_position_embeddings).save_pretrained(folder)
        model = CrossEncoder(
            folder, device=str(device), model_kwargs={"dtype": sizes.dtype(device)}
        )
    query = " ".join(["w7"] * (sizes.text_tokens - 2))  # text_tokens with [CLS] and [SEP]
    passage = " ".join(["w9"] * tokens)
    return CrossEncoderRoad(model, (query, passage), sizes, k, device)


def made_up_words(vocabulary: int, longest: int) -> PreTrainedTokenizerFast:
    """A tokenizer of made-up words that joins pairs as BERT's does."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made_up = [f"w{number}" for number in range(vocabulary - len(special))]
    known = {word: number for number, word in enumerate(special + made_up)}
    tokenizer = Tokenizer(WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", known["[CLS]"]), ("[SEP]", known["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=longest,
    )
