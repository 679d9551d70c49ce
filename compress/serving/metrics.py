"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from compress.serving.refusals import Outcome
from export.runtime.batching import Batch
from export.runtime.manifest import Manifest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms in a registry of their own, so that several services may share a process."""

    def __init__(self, manifest: Manifest, depth: Callable[[], int], capacity: int) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("compress_requests", "Requests for pictures", ["outcome"], registry=registry)
        for outcome in get_args(Outcome):
            self.requests.labels(outcome)  # so that a rate can be taken of what was never seen
        self.pictures = Counter("compress_pictures", "Pictures that were answered", registry=registry)
        self.seconds = Histogram(
            *("compress_request_seconds", "Time of a request, until its answer is made", ["outcome"]),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "compress_batch_pictures", "Pictures drawn at once", buckets=PICTURES, registry=registry
        )
        self.drawing = Histogram(
            "compress_batch_seconds", "Time of drawing a batch", buckets=SECONDS, registry=registry
        )
        waiting = Gauge("compress_queue_pictures", "Pictures that wait", registry=registry)
        waiting.set_function(lambda: float(depth()))
        most = Gauge("compress_queue_capacity_pictures", "Pictures that may wait", registry=registry)
        most.set(capacity)
        engine = Gauge("compress_engine_info", "The engine", ["name", "family", "target"], registry=registry)
        engine.labels(manifest.name, manifest.family, manifest.target).set(1)

    def request(self, outcome: Outcome, seconds: float, pictures: int) -> None:
        """Count a request that is over."""
        self.requests.labels(outcome).inc()
        self.seconds.labels(outcome).observe(seconds)
        self.pictures.inc(pictures)

    def batch(self, batch: Batch) -> None:
        """Count a batch that was drawn."""
        self.batches.observe(batch.pictures)
        self.drawing.observe(batch.seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
