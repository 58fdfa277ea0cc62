"""The joint encoder: a small language model that reads `[CLS] caption [SEP] v_1 … v_m [SEP]`."""

import inspect

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel


class JointEncoder(nn.Module):
    """Runs a bidirectional language model over a caption's word pieces and visual tokens.

    Segment ids are 0 for the text and 1 for the visual part with its final [SEP]; position ids
    run on from each caption's own length, so that padding never changes a result (EDJE, section 3).
    A language model without segments gets a learned embedding for the visual type instead.

    Args:
        language_model: an encoder of transformers that takes `inputs_embeds`.
        separator_id: word-piece id of [SEP].
        max_text_tokens: longest text part, [CLS] and [SEP] included.
        num_visual_tokens: m; where the position table is too short for
            `max_text_tokens + m + 1`, it is extended by repeating its last row.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        separator_id: int,
        max_text_tokens: int,
        num_visual_tokens: int,
    ):
        super().__init__()
        self.language_model = language_model
        self.separator_id = separator_id
        self.width: int = language_model.config.hidden_size
        accepted = inspect.signature(language_model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.has_segments = (
            "token_type_ids" in accepted
            and getattr(language_model.config, "type_vocab_size", 0) >= 2
        )
        self.visual_type = None if self.has_segments else nn.Parameter(torch.zeros(self.width))
        extend_position_table(language_model, max_text_tokens + num_visual_tokens + 1)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word-piece embeddings."""
        embeddings = self.language_model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    def forward(
        self,
        input_ids: Int[Tensor, "pairs length"],
        attention_mask: Bool[Tensor, "pairs length"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs sequence width"]:
        """Hidden states of the last layer, text part (with its padding) first.

        The sequence is `length + tokens + 1` long: text, visual tokens, [SEP].
        """
        pairs, length = input_ids.shape
        tail = visual.shape[1] + 1
        words = self.word_embeddings(input_ids)
        separator = self.word_embeddings.weight[self.separator_id].expand(pairs, 1, -1)
        visual_part = torch.cat([visual.to(words.dtype), separator.to(words.dtype)], dim=1)
        if self.visual_type is not None:
            visual_part = visual_part + self.visual_type
        embedded = torch.cat([words, visual_part], dim=1)  # (pairs, length + m + 1, width)

        device = input_ids.device
        text_lengths = attention_mask.sum(dim=1, keepdim=True)
        positions = torch.cat(
            [
                torch.arange(length, device=device).expand(pairs, -1),
                text_lengths + torch.arange(tail, device=device),
            ],
            dim=1,
        )
        mask = None
        if not bool(attention_mask.all()):
            visible = attention_mask.new_ones(pairs, tail)
            mask = torch.cat([attention_mask, visible], dim=1)
        segments = (torch.arange(length + tail, device=device) >= length).long().expand(pairs, -1)
        return self._run(embedded, mask, positions, segments)

    def encode_text(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states of the caption alone, `[CLS] caption [SEP]`."""
        batch, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).expand(batch, -1)
        segments = torch.zeros_like(input_ids)
        mask = None if bool(attention_mask.all()) else attention_mask
        return self._run(self.word_embeddings(input_ids), mask, positions, segments)

    def _run(
        self, embedded: Tensor, mask: Tensor | None, positions: Tensor, segments: Tensor
    ) -> Tensor:
        """Call the language model with the arguments that its architecture knows."""
        known: dict[str, Tensor] = {}
        if self.takes_positions:
            known["position_ids"] = positions
        if self.has_segments:
            known["token_type_ids"] = segments
        output = self.language_model(
            inputs_embeds=embedded, attention_mask=None if mask is None else mask.long(), **known
        )
        return output.last_hidden_state


def extend_position_table(language_model: PreTrainedModel, length: int) -> None:
    """Grow a learned table of absolute positions to `length` rows by repeating its last row."""
    embeddings = getattr(language_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding) or table.num_embeddings >= length:
        return
    missing = length - table.num_embeddings
    weight = table.weight.data
    grown = nn.Embedding(length, weight.shape[1], dtype=weight.dtype, device=weight.device)
    grown.weight.data = torch.cat([weight, weight[-1:].expand(missing, -1)])
    assert embeddings is not None
    embeddings.position_embeddings = grown
    language_model.config.max_position_embeddings = length
    if hasattr(embeddings, "position_ids"):
        ids = torch.arange(length, device=weight.device).expand(1, -1)
        embeddings.register_buffer("position_ids", ids, persistent=False)
    if hasattr(embeddings, "token_type_ids"):
        zeros = torch.zeros(1, length, dtype=torch.long, device=weight.device)
        embeddings.register_buffer("token_type_ids", zeros, persistent=False)
