"""Adapters: from the frozen backbone's vision tokens to the tokens that the joint encoder reads.

Every `Adapter` maps `(batch, N, token_width)` to `(batch, num_tokens, width)`. `AdapterFacts` are
the facts about its two sides; keyword-only arguments are choices. Checkpoints name an adapter by
its name in `edje.registry`.
"""

from edje.models.adapters.adapter import Adapter
from edje.models.adapters.compression import TokenCompressionAdapter
from edje.models.adapters.facts import AdapterFacts, BackboneFacts
from edje.models.adapters.grid_pooling import GridPoolingAdapter
from edje.models.adapters.kmeans import KMeansAdapter
from edje.models.adapters.linear_pooling import LinearPoolingAdapter
from edje.models.adapters.local import LocalAdapter
from edje.models.adapters.pruning import AttentionPruningAdapter
from edje.models.adapters.query_transformer import QueryTransformerAdapter
from edje.models.adapters.subsampling import SubsamplingAdapter

__all__ = [
    "Adapter",
    "AdapterFacts",
    "AttentionPruningAdapter",
    "BackboneFacts",
    "GridPoolingAdapter",
    "KMeansAdapter",
    "LinearPoolingAdapter",
    "LocalAdapter",
    "QueryTransformerAdapter",
    "SubsamplingAdapter",
    "TokenCompressionAdapter",
]
