"""Services with typed arguments: cache, mine, train, evaluate and compress from Python."""

from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.compressed import compress
from edje.pipeline.evaluation import Evaluated, evaluate, evaluated
from edje.pipeline.feed import Feed, cached_feed, streamed_feed
from edje.pipeline.preparation import Prepared, Training, prepare
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import CanonicalStart, CheckpointStart, ContrastiveStart, FreshStart
from edje.pipeline.storage import Storage
from edje.pipeline.token_cache import Cache
from edje.pipeline.training import finish, train_reranker

__all__ = [
    "Cache",
    "CanonicalStart",
    "CheckpointStart",
    "Collection",
    "ContrastiveStart",
    "Evaluated",
    "Feed",
    "FreshStart",
    "Prepared",
    "Scoring",
    "Storage",
    "Training",
    "cached_collection",
    "cached_feed",
    "compress",
    "evaluate",
    "evaluated",
    "finish",
    "prepare",
    "streamed_feed",
    "train_reranker",
]
