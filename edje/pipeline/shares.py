"""Scoring candidate lists: in this process, or shared among a run's or a launcher's processes."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from edje.data.datamodules.batches import each_tensor
from edje.durable import new_file
from edje.errors import EdjeError
from edje.inference.device_cells import near
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.models.edje import EDJE
from edje.parallel.agreement import is_seen, named_folder
from edje.parallel.environment import launched
from edje.parallel.helping import in_all_ranks
from edje.parallel.processes import in_processes
from edje.pipeline.devices import make_current, of_this_process
from edje.records import CandidateList
from edje.retrieval.rerank import RerankedList, rerank

WORK = "work.pt"


@dataclass(frozen=True)
class ScoringWork:
    """Everything that a process needs to score its share.

    Each list has one direction. `queries` are, for each list, the rows by which the scorer knows
    its queries; by default 0, 1, 2, …
    """

    model: EDJE
    collection: ScoringSet
    precision: torch.dtype
    batch_size: int
    lists: Sequence[CandidateList]
    compiled: bool = False
    as_given: bool = False  # the precision, without a measurement of int8
    queries: Sequence[Int[Tensor, "queries"]] | None = None

    @property
    def num_pairs(self) -> int:
        """The number of pairs to score."""
        return sum(lists.candidates.numel() for lists in self.lists)


def score(
    work: ScoringWork, progress: Callable[[int], object], share: tuple[int, int] = (0, 1)
) -> tuple[list[RerankedList], float]:
    """The lists with their joint scores, on the model's device, and the seconds it took.

    With a `share` (i, n), only the i-th query and every n-th from there are scored.
    """
    scorer = scorer_of(work)
    started = time.perf_counter()
    text, visual = work.collection.text, work.collection.visual
    scorer = scorer.on(ScoringSet(text, near(visual, scorer.device)))
    scored = []
    for number, lists in enumerate(work.lists):
        places = torch.arange(len(lists.candidates))[share[0] :: share[1]]
        own = of_queries(lists, places)
        rows = places if work.queries is None else work.queries[number][places]
        scored.append(
            rerank(own, scorer.launch, work.batch_size, progress, key=scorer.lengths, rows=rows)
        )
    return scored, time.perf_counter() - started


def settled(work: ScoringWork) -> ScoringWork:
    """The work with its final number format: int8 is measured once, here, for every process.

    Raises:
        EdjeError: the device or the language model doesn't support int8.
    """
    if work.precision != torch.int8 or work.as_given:
        return work
    return replace(work, precision=scorer_of(work).precision, as_given=True)


def scorer_of(work: ScoringWork) -> StoredTokenScorer:
    """The scorer of this work."""
    return StoredTokenScorer(
        work.model,
        work.collection,
        work.precision,
        compiled=work.compiled,
        as_given=work.as_given,
    )


def num_shares(devices: Sequence[torch.device]) -> int:
    """The number of processes that share the scoring: a launcher's, or one per device.

    Without devices the number is 0: this process scores alone.
    """
    process = launched()
    if process is None or named_folder() is None or not devices:
        return len(devices)
    return process.world_size


def scored_in_shares(
    work: ScoringWork, devices: Sequence[torch.device], progress: Callable[[int], object]
) -> tuple[list[RerankedList], float]:
    """The result of `score`, by `num_shares` processes; the seconds are the slowest process's.

    Raises:
        EdjeError: a process failed.
    """
    process, shared, count = launched(), named_folder(), num_shares(devices)
    with tempfile.TemporaryDirectory(prefix="shares-", dir=shared) as name:
        folder = Path(name)
        torch.save(work, folder / WORK)
        if process is None or shared is None:
            _by_processes(folder, devices, progress)
        else:
            arguments = (folder, tuple(devices))
            in_all_ranks(process, _part_of_rank, arguments, folder, progress)
        parts = [_scores_in(_result(folder, index)) for index in range(count)]
    reranked = []
    for number, lists in enumerate(work.lists):
        joint = torch.empty(lists.candidates.shape)
        for index, (shares, _) in enumerate(parts):
            joint[index::count] = shares[number]
        reranked.append(RerankedList(lists, joint, joint))
    return reranked, max(seconds for _, seconds in parts)


def _by_processes(
    folder: Path, devices: Sequence[torch.device], progress: Callable[[int], object]
) -> None:
    done = torch.zeros(len(devices), dtype=torch.long).share_memory_()
    shown = 0

    def show() -> None:
        nonlocal shown
        progress(int(done.sum()) - shown)
        shown = int(done.sum())

    in_processes(
        _part,
        (folder, tuple(devices), done),
        len(devices),
        show,
        doing="scored pairs",
        advice="Run the same command again, with fewer trainer.devices if memory was short.",
    )


def of_queries(lists: CandidateList, rows: Int[Tensor, "queries"]) -> CandidateList:
    """Only the lists of these queries."""
    return each_tensor(lists, lambda own: own[rows])


def _part(index: int, folder: Path, devices: Sequence[torch.device], done: Tensor) -> None:
    """The part of one of several processes on this machine."""
    _score_share(folder, devices[index], (index, len(devices)), done[index].add_)


def _part_of_rank(
    rank: int,
    count: int,
    progress: Callable[[int], object],
    folder: Path,
    devices: Sequence[torch.device],
) -> None:
    """The part of one of a launcher's processes."""
    _score_share(folder, of_this_process(devices), (rank, count), progress)


def _score_share(
    folder: Path, device: torch.device, share: tuple[int, int], progress: Callable[[int], object]
) -> None:
    """Score one share and write it where the first process reads it."""
    work: ScoringWork = torch.load(folder / WORK, map_location="cpu", mmap=True, weights_only=False)
    work.model.to(make_current(device))
    scored, seconds = score(work, progress, share)
    with new_file(_result(folder, share[0])) as temporary:
        torch.save(([lists.joint for lists in scored], seconds), temporary)


def _scores_in(file: Path) -> tuple[list[Tensor], float]:
    if not is_seen(file):
        raise EdjeError(
            f"the scores of another process don't appear in {file.parent}. All nodes must see the "
            "run folder: give hydra.run.dir=<a folder on a shared disk>."
        )
    scores: tuple[list[Tensor], float] = torch.load(file, weights_only=True)
    return scores


def _result(folder: Path, index: int) -> Path:
    return folder / f"scores_{index}.pt"
