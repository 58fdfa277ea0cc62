"""The joint encoder: a small language model that reads a caption and an image's visual tokens."""

import inspect
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from edje.errors import EdjeError
from edje.models.joint_options import PLAIN, JointOptions
from edje.records import TextBatch

# Architectures in which only the position id says where a token is.
_GO_BY_POSITION_IDS = frozenset({"bert", "roberta", "xlm-roberta", "electra"})


class JointEncoder(nn.Module):
    """Runs a bidirectional language model over a caption's word pieces and visual tokens.

    With `fusion_layer` 0 it reads `[CLS] caption [SEP] v_1 … v_m [SEP]` from the first layer on
    (EDJE, section 3). Segment ids are 0 for the text and 1 for the visual part with its final
    [SEP]. Position ids continue from each caption's own length, so padding never changes a
    result. If the position table keeps a row for padding (RoBERTa), they start after it. A
    language model without segments gets a learned embedding for the visual type instead. Some
    language models also count windows or distances along the sequence (ModernBERT). They get each
    sequence without gaps, with its padding moved to the end: the same guarantee, for one more
    gather.

    With `fusion_layer` k the text runs alone through the first k layers, once for all of its
    candidates, and the visual tokens join there (as document representations do in PreTTR,
    MacAvaney et al., 2020). They pass a LayerNorm and get a learned embedding of the visual type,
    but no positions and no [SEP]. Only what the adapter put into them distinguishes them.

    Args:
        language_model: an encoder of transformers that takes `inputs_embeds`.
        separator_id: word-piece id of [SEP].
        max_text_tokens: longest text part, including [CLS] and [SEP]; a text that is read without
            an image may have one more.
        num_visual_tokens: m; if the position table is too short for
            `max_text_tokens + m + 1`, it is extended by repeating its last row.
        options: where the visual tokens join, whether the part below stays frozen, and for which
            layers `read_text` also returns the word states.

    Raises:
        EdjeError: the language model's word embeddings are of another width than its states, no
            layer is left above `fusion_layer`, or its layers can't be run one by one.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        separator_id: int,
        max_text_tokens: int,
        num_visual_tokens: int,
        options: JointOptions = PLAIN,
    ):
        super().__init__()
        self.language_model = language_model
        self.separator_id = separator_id
        self.max_text_tokens = max_text_tokens
        self.options = options
        self.fusion_layer = fusion_layer = options.fusion_layer
        self.width: int = language_model.config.hidden_size
        self.text_width = self.width * (1 + len(options.evidence_layers))
        if (given := self.word_embeddings.embedding_dim) != self.width:
            raise EdjeError(
                f"{type(language_model).__name__} can't be a joint encoder: word embeddings have "
                f"{given} numbers, states {self.width}. Use a language model in which both have "
                "as many, such as MiniLM or BERT."
            )
        accepted = inspect.signature(language_model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.has_segments = (
            "token_type_ids" in accepted
            and getattr(language_model.config, "type_vocab_size", 0) >= 2
        )
        self.needs_no_gaps = language_model.config.model_type not in _GO_BY_POSITION_IDS
        self.entry_norm: nn.LayerNorm | None = None
        if fusion_layer:
            self._require_layers()
            self.entry_norm = nn.LayerNorm(self.width, eps=language_model.config.layer_norm_eps)
        self.first_position = first_position(language_model)
        learned_type = bool(fusion_layer) or not self.has_segments
        self.visual_type = nn.Parameter(torch.zeros(self.width)) if learned_type else None
        visual_positions = 1 if fusion_layer else num_visual_tokens + 1
        extend_position_table(
            language_model, self.first_position + max_text_tokens + visual_positions
        )
        if options.frozen_text:
            cast(nn.Module, language_model.embeddings).requires_grad_(False)
            layers = cast(nn.ModuleList, cast(nn.Module, language_model.encoder).layer)
            layers[:fusion_layer].requires_grad_(False)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word-piece embeddings."""
        embeddings = self.language_model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def stack(self) -> nn.ModuleList | None:
        """The language model's layers, if kept as in BERT-like models or ModernBERT; else None."""
        inner = getattr(self.language_model, "encoder", self.language_model)
        layers = getattr(inner, "layer", getattr(inner, "layers", None))
        return layers if isinstance(layers, nn.ModuleList) else None

    def forward(
        self,
        input_ids: Int[Tensor, "pairs length"],
        attention_mask: Bool[Tensor, "pairs length"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs sequence width"]:
        """Hidden states of the last layer, text part (with its padding) first.

        The text part is followed by the visual tokens and, with `fusion_layer` 0, a [SEP].
        """
        return self.fuse(self.read_text(input_ids, attention_mask), attention_mask, visual)

    def cut(self, text: TextBatch) -> TextBatch:
        """The text cut to go before an image: at most `max_text_tokens`, the last one [SEP]."""
        limit = self.max_text_tokens
        if text.input_ids.shape[1] <= limit:
            return text
        longer = text.attention_mask[:, limit]
        ids = text.input_ids[:, :limit].clone()
        ids[:, -1] = ids[:, -1].masked_fill(longer, self.separator_id)
        return TextBatch(ids, text.attention_mask[:, :limit])

    def read_text(
        self,
        input_ids: Int[Tensor, "texts length"],
        attention_mask: Bool[Tensor, "texts length"],
        padded: bool | None = None,
    ) -> Float[Tensor, "texts length text_width"]:
        """The text where the visual tokens join it: word embeddings, or states of layer k.

        Runs once per text, whatever its number of candidates. The states of `evidence_layers` are
        concatenated after them. `padded` says whether some text has padding. If it is None, the
        mask is checked, which waits for a GPU.
        """
        words = self.word_embeddings(input_ids)
        if not self.fusion_layer:
            return words
        embeddings = cast(nn.Module, self.language_model.embeddings)
        states = embeddings(inputs_embeds=words)
        below = slice(None, self.fusion_layer)
        mask = _unless_full(attention_mask, padded)
        return self.beside([states, *self._layers(states, mask, below)])

    def beside(
        self, states: Sequence[Float[Tensor, "texts length width"]]
    ) -> Float[Tensor, "texts length text_width"]:
        """What `read_text` returns, from the text's states: embedded, then after each layer."""
        read = [states[-1], *(states[layer] for layer in self.options.evidence_layers)]
        return read[0] if len(read) == 1 else torch.cat(read, dim=-1)

    def entering(
        self, visual: Float[Tensor, "images tokens width"]
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens in the space of `read_text`, before their type embedding is added."""
        return visual if self.entry_norm is None else self.entry_norm(visual)

    def fuse(
        self,
        states: Float[Tensor, "pairs length text_width"],
        attention_mask: Bool[Tensor, "pairs length"],
        visual: Float[Tensor, "pairs tokens width"],
        padded: bool | None = None,
    ) -> Float[Tensor, "pairs sequence width"]:
        """The layers that text and visual tokens share; `states`, `padded` as in `read_text`."""
        if not self.fusion_layer:
            return self._fuse_embeddings(states, attention_mask, visual, padded)
        entering = self.entering(visual)
        assert self.visual_type is not None
        words = states[..., : self.width]
        both = torch.cat([words, (entering + self.visual_type).to(words.dtype)], dim=1)
        visible = attention_mask.new_ones(visual.shape[:2])
        mask = torch.cat([attention_mask, visible], dim=1)
        attended = _unless_full(mask, padded)
        for hidden in self._layers(both, attended, slice(self.fusion_layer, None)):
            last = hidden  # only the last states are kept
        return last

    def _fuse_embeddings(
        self, words: Tensor, attention_mask: Tensor, visual: Tensor, padded: bool | None
    ) -> Float[Tensor, "pairs sequence width"]:
        """The whole language model over `[CLS] caption [SEP] v_1 … v_m [SEP]`."""
        pairs, length = attention_mask.shape
        tail = visual.shape[1] + 1
        separator = self.word_embeddings.weight[self.separator_id].expand(pairs, 1, -1)
        visual_part = torch.cat([visual.to(words.dtype), separator.to(words.dtype)], dim=1)
        if self.visual_type is not None:
            visual_part = visual_part + self.visual_type
        embedded = torch.cat([words, visual_part], dim=1)  # (pairs, length + m + 1, width)

        device = words.device
        text_lengths = attention_mask.sum(dim=1, keepdim=True)
        positions = torch.cat(
            [
                torch.arange(length, device=device).expand(pairs, -1),
                text_lengths + torch.arange(tail, device=device),
            ],
            dim=1,
        )
        mask = _unless_full(attention_mask, padded)
        if mask is not None:
            visible = attention_mask.new_ones(pairs, tail)
            mask = torch.cat([attention_mask, visible], dim=1)
        segments = (torch.arange(length + tail, device=device) >= length).long().expand(pairs, -1)
        if mask is None or not self.needs_no_gaps:
            return self._run(embedded, mask, positions, segments)
        order = mask.long().argsort(dim=1, descending=True, stable=True)  # padding goes last
        hidden = self._run(
            embedded.take_along_dim(order.unsqueeze(2), dim=1),
            mask.gather(1, order),
            torch.arange(length + tail, device=device).expand(pairs, -1),
            segments.gather(1, order),
        )
        return hidden.take_along_dim(order.argsort(dim=1).unsqueeze(2), dim=1)

    def encode_text(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"],
        padded: bool | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states of the caption only, `[CLS] caption [SEP]`; `padded` as in `read_text`."""
        batch, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).expand(batch, -1)
        segments = torch.zeros_like(input_ids)
        mask = _unless_full(attention_mask, padded)
        return self._run(self.word_embeddings(input_ids), mask, positions, segments)

    def _layers(self, hidden: Tensor, mask: Tensor | None, part: slice) -> Iterator[Tensor]:
        """States after each layer of `part`, for a BERT-like encoder; `mask`: where to attend."""
        ready = create_bidirectional_mask(
            config=self.language_model.config,
            inputs_embeds=hidden,
            attention_mask=None if mask is None else self._for_attention(mask),
        )
        stack = cast(nn.Module, self.language_model.encoder).layer
        for layer in cast(nn.ModuleList, stack)[part]:
            hidden = layer(hidden, ready)
            yield hidden

    def _require_layers(self) -> None:
        """Check that the language model's layers can be split at `fusion_layer`.

        Raises:
            EdjeError: they can't, or there are too few.
        """
        if not self._runs_by_layer():
            raise EdjeError(
                f"joint.fusion_layer={self.fusion_layer}: the layers of "
                f"{type(self.language_model).__name__} can't be run one by one, unlike those of "
                "BERT, MiniLM and similar models. Set joint.fusion_layer=0."
            )
        count = self.language_model.config.num_hidden_layers
        if not 0 < self.fusion_layer < count:
            raise EdjeError(
                f"joint.fusion_layer={self.fusion_layer}: this language model has {count} layers; "
                f"expected 0 (visual tokens from the first layer on) to {count - 1}."
            )

    @torch.no_grad()
    def _runs_by_layer(self) -> bool:
        """Whether the layers one by one, on two words, give what the whole model gives."""
        model, was_training = self.language_model, self.language_model.training
        words = self.word_embeddings.weight[None, :2]
        try:
            model.eval()
            embedded = cast(nn.Module, model.embeddings)(inputs_embeds=words)
            *_, last = self._layers(embedded, None, slice(None))
            whole = model(inputs_embeds=words).last_hidden_state
            return last.is_meta or torch.allclose(last, whole, atol=1e-4)
        except Exception:  # of any kind: a layer that needs more than states and a mask
            return False
        finally:
            model.train(was_training)

    def _run(
        self, embedded: Tensor, mask: Tensor | None, positions: Tensor, segments: Tensor
    ) -> Tensor:
        """Call the language model with the arguments that its architecture accepts."""
        known: dict[str, Tensor] = {}
        if self.takes_positions:
            known["position_ids"] = positions + self.first_position
        if self.has_segments:
            known["token_type_ids"] = segments
        if mask is not None:
            mask = mask.long() if self.needs_no_gaps else self._for_attention(mask)
        output = self.language_model(inputs_embeds=embedded, attention_mask=mask, **known)
        return output.last_hidden_state

    def _for_attention(self, mask: Tensor) -> Tensor:
        """Where to attend, for layers that all attend to the whole sequence.

        transformers would build the same mask, but first checks whether anything is padded, which
        waits for a GPU. For attentions other than torch's, it builds the mask itself.
        """
        if self.language_model.config._attn_implementation != "sdpa":
            return mask.long()
        return mask[:, None, None].expand(-1, -1, mask.shape[1], -1)  # the same for every position


def _unless_full(mask: Tensor, padded: bool | None) -> Tensor | None:
    """The mask, or None if nothing is padded: attention is faster without one."""
    return mask if (not bool(mask.all()) if padded is None else padded) else None


def first_position(language_model: PreTrainedModel) -> int:
    """Position id of [CLS]; RoBERTa-like models count from the row after padding's."""
    embeddings = getattr(language_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def extend_position_table(language_model: PreTrainedModel, length: int) -> None:
    """Extend a learned table of absolute positions to `length` rows by repeating its last row."""
    embeddings = getattr(language_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding) or table.num_embeddings >= length:
        return
    missing = length - table.num_embeddings
    weight = table.weight.data
    grown = nn.Embedding(
        length, weight.shape[1], table.padding_idx, dtype=weight.dtype, device=weight.device
    )
    grown.weight.data = torch.cat([weight, weight[-1:].expand(missing, -1)])
    grown.requires_grad_(table.weight.requires_grad)
    assert embeddings is not None
    embeddings.position_embeddings = grown
    language_model.config.max_position_embeddings = length
    if hasattr(embeddings, "position_ids"):
        ids = torch.arange(length, device=weight.device).expand(1, -1)
        embeddings.register_buffer("position_ids", ids, persistent=False)
    if hasattr(embeddings, "token_type_ids"):
        zeros = torch.zeros(1, length, dtype=torch.long, device=weight.device)
        embeddings.register_buffer("token_type_ids", zeros, persistent=False)
