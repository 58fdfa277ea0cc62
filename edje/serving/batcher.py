"""One thread that runs all jobs of an object for one thread; waiting jobs share a call."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
J = TypeVar("J")
R = TypeVar("R")


class Busy(Exception):
    """Raised if the queue is full or no more jobs are taken."""


@dataclass
class Waiting(Generic[J, R]):
    """A job in the queue; `size` is its amount of work relative to others."""

    job: J
    size: int
    result: "Future[R]" = field(default_factory=Future)


class Batcher(Generic[J, R]):
    """Runs jobs on its own thread; jobs that wait at the same time share one call.

    While a batch is processed, the next one gathers, so no job waits for others to come. A batch
    that fails is run again job by job, so that only the faulty job fails.

    Args:
        run: gives a result for each job, in their order.
        most_waiting: largest number of jobs in the queue; further ones are refused.
        most_jobs: largest number of jobs in a batch.
        most_size: largest total size of a batch, unless one job alone is larger.
        observe: called with the number of jobs of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R]],
        *,
        most_waiting: int,
        most_jobs: int,
        most_size: int,
        observe: Callable[[int], object] = lambda jobs: None,
    ):
        self._run = run
        self._most_jobs, self._most_size = most_jobs, most_size
        self._observe = observe
        self._queue: queue.Queue[Waiting[J, R] | None] = queue.Queue(most_waiting)
        self._next: Waiting[J, R] | None = None  # taken from the queue, for the next batch
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    def submit(self, job: J, size: int = 1) -> "Future[R]":
        """The future result of a job.

        Raises:
            Busy: the queue is full, or no more jobs are taken.
        """
        waiting: Waiting[J, R] = Waiting(job, size)
        if self._closed:
            raise Busy
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise Busy from None
        return waiting.result

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._queue.qsize()

    def close(self, seconds: float) -> bool:
        """Take no more jobs and end; returns whether running jobs finished within `seconds`."""
        self._closed = True
        end = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < end:
            try:
                self._queue.put(None, timeout=0.05)
                break
            except queue.Full:
                continue
        self._thread.join(max(0.0, end - time.monotonic()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (batch := self._batch()) is not None:
            started = [one for one in batch if one.result.set_running_or_notify_cancel()]
            if started:
                self._observe(len(started))
                self._answer(started)

    def _batch(self) -> list[Waiting[J, R]] | None:
        """The waiting jobs that fit into one batch; None at the end."""
        if self._ended and self._next is None:
            return None
        first = self._next or self._queue.get()
        self._next = None
        if first is None:
            return None
        batch, size = [first], first.size
        while len(batch) < self._most_jobs:
            try:
                one = self._queue.get_nowait()
            except queue.Empty:
                break
            if one is None:
                self._ended = True
                break
            if size + one.size > self._most_size:
                self._next = one
                break
            batch.append(one)
            size += one.size
        return batch

    def _answer(self, batch: Sequence[Waiting[J, R]]) -> None:
        try:
            results = self._run([one.job for one in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            log.info("a batch of %d failed (%r); running its jobs one by one", len(batch), error)
            for one in batch:
                self._answer([one])
            return
        for one, result in zip(batch, results, strict=True):
            one.result.set_result(result)
