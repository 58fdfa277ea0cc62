"""Reading run folders: one table of all runs, recomputed metrics, plots, a report."""

from edje.analysis.attention_sheet import attention_sheet
from edje.analysis.budget import budget_plot, budget_table
from edje.analysis.candidate_curves import candidate_curve, candidate_curve_plot
from edje.analysis.coco_relevance import coco_relevance
from edje.analysis.comparison import compare
from edje.analysis.curves import loss_curves
from edje.analysis.decision import decide
from edje.analysis.failure_bars import failure_bars
from edje.analysis.failures import failures, query_outcomes
from edje.analysis.gallery import gallery
from edje.analysis.judged import compare_judged, judged
from edje.analysis.lists import StoredLists, image_paths, read_lists, recompute_metrics
from edje.analysis.map_facts import map_facts, map_overlap, normalised_entropy
from edje.analysis.paper import paper_table
from edje.analysis.plots import save_plots
from edje.analysis.recall import recall_bars
from edje.analysis.run_report import report
from edje.analysis.runs import latest_run, load_runs, read_metrics
from edje.analysis.speed import recall_against_latency
from edje.analysis.study import bracketed, study_plot, study_table
from edje.analysis.sweep import sweep_plot, sweep_table
from edje.analysis.table import metrics_table
from edje.analysis.trec import write_trec
from edje.retrieval.metrics import first_hit_ranks, recall_at_k

__all__ = [
    "StoredLists",
    "attention_sheet",
    "bracketed",
    "budget_plot",
    "budget_table",
    "candidate_curve",
    "candidate_curve_plot",
    "coco_relevance",
    "compare",
    "compare_judged",
    "decide",
    "failure_bars",
    "failures",
    "first_hit_ranks",
    "gallery",
    "image_paths",
    "judged",
    "latest_run",
    "load_runs",
    "loss_curves",
    "map_facts",
    "map_overlap",
    "metrics_table",
    "normalised_entropy",
    "paper_table",
    "query_outcomes",
    "read_lists",
    "read_metrics",
    "recall_against_latency",
    "recall_at_k",
    "recall_bars",
    "recompute_metrics",
    "report",
    "save_plots",
    "study_plot",
    "study_table",
    "sweep_plot",
    "sweep_table",
    "write_trec",
]
