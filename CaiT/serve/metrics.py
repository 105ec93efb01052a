# SPDX-License-Identifier: Apache-2.0
"""Counters of a server in Prometheus' format."""
from __future__ import annotations

from typing import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
SECONDS = (.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


class Metrics:
    """The metrics of one server, all named ``cait_…``, beside those of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter('cait_requests', 'Requests by route and HTTP status', ['route', 'status'],
                                registry=self.registry)
        self.request_seconds = Histogram('cait_request_seconds', 'From the head of a request to its response',
                                         ['route'], buckets=SECONDS, registry=self.registry)
        self.decode_seconds = Histogram('cait_decode_seconds', 'Decoding and preprocessing of a request',
                                        buckets=SECONDS, registry=self.registry)
        self.run_seconds = Histogram('cait_run_seconds', 'Runs of the engine', buckets=SECONDS,
                                     registry=self.registry)
        self.batch_images = Histogram('cait_batch_images', 'Images in a run of the engine', buckets=IMAGES,
                                      registry=self.registry)
        self.in_flight = Gauge('cait_requests_in_flight', 'Requests with images that are being answered',
                               registry=self.registry)
        self.bodies = Gauge('cait_bodies_bytes', 'Bytes of the bodies that are held', registry=self.registry)
        self.ready = Gauge('cait_ready', '1 when the model is loaded and warm', registry=self.registry)

    def observe_run(self, images: int, seconds: float) -> None:
        self.batch_images.observe(images)
        self.run_seconds.observe(seconds)

    def follow(self, in_flight: Callable[[], float], bodies: Callable[[], float], ready: Callable[[], float]) -> None:
        """What is asked for when the metrics are read."""
        self.in_flight.set_function(in_flight)
        self.bodies.set_function(bodies)
        self.ready.set_function(ready)

    def text(self) -> bytes:
        return generate_latest(self.registry)
