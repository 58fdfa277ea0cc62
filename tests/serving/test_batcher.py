"""Claims about the thread that works on all that waits for it together."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future

import pytest

from edje.serving.batcher import Batcher, Busy


class Work:
    """Doubles numbers, when it may; notes its batches. A negative number is at fault."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()
        self.began = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.began.release()
        assert self.may.wait(20)
        if min(jobs) < 0:
            raise ValueError(f"{min(jobs)} is negative")
        return [2 * job for job in jobs]


def started(work: Work, **limits: int) -> tuple[Batcher[int, int], "Future[int]"]:
    """A batcher whose thread is busy with a first job."""
    given = {"most_waiting": 10, "most_jobs": 4, "most_size": 100} | limits
    batcher: Batcher[int, int] = Batcher(work, **given)
    first = batcher.submit(0)
    assert work.began.acquire(timeout=20)
    return batcher, first


def test_what_waits_goes_together_in_its_order() -> None:
    work = Work()
    batcher, first = started(work)
    others = [batcher.submit(job) for job in range(1, 7)]
    assert batcher.waiting == 6
    work.may.set()
    assert [one.result(20) for one in [first, *others]] == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert batcher.close(20)


def test_a_batch_is_no_larger_than_it_may_be_but_for_one_large_job() -> None:
    work = Work()
    batcher, _ = started(work, most_size=10)
    sizes = {1: 6, 2: 4, 3: 1, 4: 50, 5: 1}
    others = [batcher.submit(job, size) for job, size in sizes.items()]
    work.may.set()
    assert [one.result(20) for one in others] == [2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2], [3], [4], [5]]
    assert batcher.close(20)


def test_one_bad_job_fails_alone() -> None:
    work = Work()
    batcher, _ = started(work)
    good, bad, other = (batcher.submit(job) for job in (1, -1, 2))
    work.may.set()
    assert (good.result(20), other.result(20)) == (2, 4)
    with pytest.raises(ValueError, match="-1 is negative"):
        bad.result(20)
    assert batcher.submit(3).result(20) == 6
    assert batcher.close(20)


def test_no_more_wait_than_may() -> None:
    work = Work()
    batcher, _ = started(work, most_waiting=2)
    waiting = [batcher.submit(1), batcher.submit(2)]
    with pytest.raises(Busy):
        batcher.submit(3)
    work.may.set()
    assert [one.result(20) for one in waiting] == [2, 4]
    assert batcher.close(20)


def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    work = Work()
    batcher, _ = started(work)
    gone, other = batcher.submit(1), batcher.submit(2)
    assert gone.cancel()
    work.may.set()
    assert other.result(20) == 4 and work.batches[1:] == [[2]]
    with pytest.raises(CancelledError):
        gone.result(20)
    assert batcher.close(20)


def test_at_the_end_what_waits_is_done_and_no_more_taken() -> None:
    work = Work()
    batcher, _ = started(work)
    waiting = [batcher.submit(job) for job in range(1, 7)]
    assert not batcher.close(0.1)  # the thread is busy still
    with pytest.raises(Busy):
        batcher.submit(7)
    work.may.set()
    assert [one.result(20) for one in waiting] == [2, 4, 6, 8, 10, 12]
    assert batcher.close(20)
