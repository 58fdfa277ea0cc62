"""Metrics of a running server for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edje.index.answers import StageSeconds

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
JOBS = (1, 2, 4, 8, 16, 32)


class ServerMetrics:
    """Counts and times of one server."""

    def __init__(self, waiting: Callable[[], int], images: Callable[[], int]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "edje_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "edje_request_seconds",
            "Seconds from request to answer",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "edje_batch_jobs",
            "Searches and rerankings that were scored together",
            buckets=JOBS,
            registry=self.registry,
        )
        self.stages = Counter(
            "edje_stage_seconds",
            "Seconds of each stage, counted once for each of a batch's searches",
            ["stage"],
            registry=self.registry,
        )
        queue = Gauge("edje_waiting_jobs", "Jobs in the queue", registry=self.registry)
        queue.set_function(waiting)
        pictures = Gauge("edje_index_images", "Pictures in the index", registry=self.registry)
        pictures.set_function(images)

    def requested(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def searched(self, seconds: StageSeconds) -> None:
        """Count the stages of a search."""
        for stage, value in vars(seconds).items():
            self.stages.labels(stage).inc(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
