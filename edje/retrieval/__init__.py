"""First-stage candidates, reranking, recall and its intervals: tensors and records only."""

from edje.retrieval.candidates import candidate_lists, first_stage_candidates
from edje.retrieval.fusion import Standardiser, SumFusion, fit_sum, fit_sum_weight
from edje.retrieval.intervals import Estimate, interval, paired_interval
from edje.retrieval.metrics import first_hit_ranks, hits_at_k, recall_at_k
from edje.retrieval.report import candidate_columns, query_columns, retrieval_metrics
from edje.retrieval.rerank import PairScorer, RerankedList, rerank, share_of_ties

__all__ = [
    "Estimate",
    "PairScorer",
    "RerankedList",
    "Standardiser",
    "SumFusion",
    "candidate_columns",
    "candidate_lists",
    "first_hit_ranks",
    "first_stage_candidates",
    "fit_sum",
    "fit_sum_weight",
    "hits_at_k",
    "interval",
    "paired_interval",
    "query_columns",
    "recall_at_k",
    "rerank",
    "retrieval_metrics",
    "share_of_ties",
]
