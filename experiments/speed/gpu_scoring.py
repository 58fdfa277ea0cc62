"""Scoring on a GPU: many pairs, from the device and from host memory, and whole queries."""

from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gpu_figures import Lane, Work, in_turns
from gpu_profile import Measured, profile_of

from edje.benchmark.flops import count_flops
from edje.benchmark.ours import STORED, OurLane, WholeQuery, score_query
from edje.benchmark.peers import LeanRoad
from edje.benchmark.settings import Benchmark
from edje.inference.scorer import ScoringSet, StoredTokenScorer

TINY = {
    **{"width": 32, "num_layers": 2, "num_heads": 2, "hidden_width": 64, "vocabulary": 50},
    **{"text_tokens": 6, "stored_images": 40, "corpus": 200, "precision": "fp32"},
    **{"text_encoder_width": 64, "text_encoder_layers": 1, "text_encoder_tokens": 8},
}


@dataclass(frozen=True)
class Goals:
    """Goals on an H100 or H200; none in tiny sizes."""

    device: float | None = 100_000.0  # pairs per second
    host: float | None = 50_000.0
    query: float | None = 8.0  # ms
    rerank: float | None = 3.0


@dataclass(frozen=True)
class ScoringSizes:
    """MiniLM-L12's sizes, with 64 tokens and captions of 18 word pieces."""

    pairs: int = 16_384  # of a call
    k: int = 100
    tokens: int = 64
    lean_batch: int = 1024
    seconds: float = 12.0  # of each of the two measurements
    min_runs: int = 9
    goals: Goals = Goals()

    def benchmark(self, tiny: bool, k: int, batch_size: int | None = None) -> Benchmark:
        """The models and the workload."""
        real = {"stored_images": 8192, "corpus": 1_000_000, "precision": "bf16"}
        sizes = TINY if tiny else real
        return Benchmark(tokens=[self.tokens], candidates=[k], batch_size=batch_size, **sizes)


def scoring_figures(device: torch.device, tiny: bool) -> Measured:
    """Figures of throughput, then of latency."""
    sizes = ScoringSizes()
    if tiny:
        sizes = ScoringSizes(40, 5, 4, 16, 0.2, 2, Goals(None, None, None, None))
    query = OurLane(sizes.benchmark(tiny, sizes.k), sizes.tokens, sizes.k, 0, device, Path())
    scored = query.entry("scorer").call
    scored()  # calibrates its batch size, which must not be counted
    flops = count_flops(scored) / sizes.k
    many, few = _throughput(sizes, device, tiny, flops), _latency(sizes, device, flops, query)
    return Measured([*many.figures, *few.figures], [*many.profiles, *few.profiles])


def _throughput(sizes: ScoringSizes, device: torch.device, tiny: bool, flops: float) -> Measured:
    pairs, tokens, goals = sizes.pairs, sizes.tokens, sizes.goals
    # More pairs than embeddings, which are not searched here: images repeat.
    lane = OurLane(sizes.benchmark(tiny, sizes.k), tokens, pairs, 0, device, Path())
    lean_sizes = sizes.benchmark(tiny, sizes.k, sizes.lean_batch)
    lean = LeanRoad(lean_sizes, tokens, pairs, device)
    cell = tokens * lane.sizes.width * STORED.itemsize
    here = Work(flops * pairs, read_bytes=cell * pairs)
    lean_work = Work(count_flops(LeanRoad(lean_sizes, tokens, sizes.k, device)) / sizes.k * pairs)
    sent = Work(flops * pairs, read_bytes=cell * pairs, sent_bytes=cell * pairs)
    peer = "transformers' BertModel, tokens on the device"
    near = ScoringSet(lane.text, lane.visual("scorer"))
    every = torch.arange(pairs)
    lanes = {
        f"scorer, tokens on the device{how}": Lane(
            partial(score_query, scorer, every),
            pairs,
            "pairs/s",
            [here],
            lane.dtype,
            goals.device,
            peer,
        )
        for how, scorer in _ways(lane, near, device).items()
    }
    calls = {name: own.call for name, own in lanes.items()}
    lanes["scorer, tokens in host memory"] = Lane(
        lane.entry("host").call, pairs, "pairs/s", [sent], lane.dtype, goals.host, peer
    )
    lanes[peer] = Lane(lean, pairs, "pairs/s", [lean_work], lane.dtype)
    figures, _ = in_turns(lanes, device, sizes.seconds, sizes.min_runs)
    return Measured(figures, [profile_of(name, call, device) for name, call in calls.items()])


def _ways(
    lane: OurLane, collection: ScoringSet, device: torch.device
) -> dict[str, StoredTokenScorer]:
    """Plain layers, and on a GPU compiled ones, replayed as graphs."""
    ways = {"": False, " as graphs": True} if device.type == "cuda" else {"": False}
    return {
        how: StoredTokenScorer(lane.model, collection, lane.precision, compiled=compiled)
        for how, compiled in ways.items()
    }


def _latency(sizes: ScoringSizes, device: torch.device, flops: float, lane: OurLane) -> Measured:
    """From word pieces to a ranking."""
    k, tokens, benchmark = sizes.k, sizes.tokens, lane.sizes
    collection = ScoringSet(lane.text, lane.stored)
    scorers = _ways(lane, collection, device)
    query = WholeQuery(benchmark, k, scorers[""], device)
    corpus, width = query.corpus.shape
    with torch.inference_mode():
        ids = query.ids.to(device)
        text = Work(count_flops(lambda: query.text_encoder(ids)))
    search = Work(2.0 * corpus * width, read_bytes=corpus * width * query.corpus.element_size())
    cell = tokens * benchmark.width * STORED.itemsize
    rerank = Work(flops * k, sent_bytes=cell * k)
    peer = f"transformers' BertModel, rerank {k}, tokens on the device"
    lean = LeanRoad(benchmark, tokens, k, device)
    lean()  # finds its batch size, which must not be counted
    lanes = {peer: Lane(lean, k, "ms", [Work(float(count_flops(lean)))], lane.dtype)}
    images = len(lane.stored)
    wholes = {}
    for how, scorer in scorers.items():
        whole = copy(query)
        whole.scorer = scorer
        name = f"query over {corpus:,}, k={k}{how}"
        wholes[name] = whole
        lanes[name] = Lane(whole, k, "ms", [text, search, rerank], lane.dtype, sizes.goals.query)
        lanes[f"rerank {k} from host memory{how}"] = Lane(
            lambda scorer=scorer: score_query(scorer, torch.randint(images, (k,))),
            k,
            "ms",
            [rerank],
            lane.dtype,
            sizes.goals.rerank,
            peer,
        )
    figures, _ = in_turns(lanes, device, sizes.seconds, sizes.min_runs)
    return Measured(figures, [profile_of(*named, device) for named in wholes.items()])
