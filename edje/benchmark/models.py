"""Models of given sizes with random weights, whose values don't affect speed."""

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SiglipTextConfig, SiglipTextModel

from edje.benchmark.settings import Benchmark
from edje.models.adapters import Adapter
from edje.models.edje import EDJE
from edje.models.joint_encoder import JointEncoder
from edje.models.joint_options import JointOptions

SEPARATOR = 102


class StoredAdapter(Adapter):
    """Takes the adapter's place: the tokens to be scored are already stored."""

    def __init__(self, num_tokens: int):
        super().__init__()
        self.num_tokens = num_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """The stored tokens."""
        return tokens


def language_model_config(sizes: Benchmark, tokens: int) -> BertConfig:
    """A BERT that can read the query with the visual tokens and a final [SEP]."""
    return BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.hidden_width,
        max_position_embeddings=max(512, sizes.text_tokens + tokens + 1),
    )


def random_reranker(sizes: Benchmark, tokens: int, fusion_layer: int) -> EDJE:
    """Joint encoder and heads, with an adapter that computes nothing."""
    language_model = BertModel(language_model_config(sizes, tokens), add_pooling_layer=False)
    joint = JointEncoder(
        language_model,
        min(SEPARATOR, sizes.vocabulary - 1),
        sizes.text_tokens,
        tokens,
        JointOptions(fusion_layer),
    )
    return EDJE(StoredAdapter(tokens), joint, sizes.text_encoder_width).eval()


def random_text_encoder(sizes: Benchmark) -> nn.Module:
    """The text tower of a dual encoder."""
    width = sizes.text_encoder_width
    config = SiglipTextConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=sizes.text_encoder_layers,
        num_attention_heads=max(width // 64, 1),
        max_position_embeddings=sizes.text_encoder_tokens,
        projection_size=width,
    )
    return SiglipTextModel(config).eval()


def random_text(sizes: Benchmark, length: int) -> Tensor:
    """Word pieces of one text without padding, (1, length)."""
    return torch.randint(1, sizes.vocabulary, (1, length))
