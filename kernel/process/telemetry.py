"""Telemetry of a process: OpenTelemetry spans, exported over OTLP when configured, and metrics as Prometheus text."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kernel.clock import Clock
from kernel.metrics import LOOP_DELAY_SECONDS, Meter, Metric

FLUSH_SECONDS_MAX: Final = 3.0
EXPORT_SECONDS_MAX: Final = 2.0
EXPORT_PERIOD_SECONDS: Final = 1.0
SPANS_QUEUED_MAX: Final = 8_192
SPANS_EXPORTED_MAX: Final = 512
SPAN_LINKS_MAX: Final = 256
HEARTBEAT_SECONDS: Final = 0.02
LOOP_PERIOD_SECONDS: Final = 5.0
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class PrometheusMeter:
    """`kernel.metrics.Meter` over a registry of exactly the declared metrics; any other is a KeyError."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        # As many as the registry holds itself: looking one up there costs several times what raising it does.
        self._children: dict[tuple[str, ...], Counter] = {}
        for metric in metrics:
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)
            elif metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)
            else:
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.meaning, metric.labels, registry=self.registry, buckets=_SECONDS_BUCKETS
                )

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Raises a counter."""
        if not labels:
            self._counters[metric.name].inc(value)
            return
        key = (metric.name, *[labels[label] for label in metric.labels])
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._counters[metric.name].labels(**labels)
        child.inc(value)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        gauge = self._gauges[metric.name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Adds a sample."""
        histogram = self._histograms[metric.name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def exposition(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Tracing:
    """A process's tracer; `close` exports what is still held, within FLUSH_SECONDS_MAX, whether or not somebody collects."""

    tracer: trace.Tracer
    provider: TracerProvider | None = None

    async def close(self) -> None:
        """Idempotent. The exporter blocks, and may hang with its collector: it ends in a thread that nobody waits for longer."""
        if self.provider is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down(provider: TracerProvider) -> None:
            provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has gone on without us
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, args=(self.provider,), name="telemetry-flush", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS_MAX):
                await done.wait()


def tracing(service: str, attributes: dict[str, str], otlp_endpoint: str) -> Tracing:
    """Exports to `otlp_endpoint`, an OTLP/HTTP base URL; with an empty one there is no span. What cannot be exported is dropped:
    the queue is bounded, and no request ever waits for it."""
    if not otlp_endpoint:
        return Tracing(trace.NoOpTracer())
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, **attributes}),
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_links=SPAN_LINKS_MAX),
    )
    exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS_MAX)
    provider.add_span_processor(BatchSpanProcessor(exporter, SPANS_QUEUED_MAX, EXPORT_PERIOD_SECONDS * 1_000, SPANS_EXPORTED_MAX))
    return Tracing(provider.get_tracer(service), provider)


async def watch_loop(meter: Meter, clock: Clock) -> None:
    """Tells how long the event loop makes others wait: the longest delay of a heartbeat in each period. Runs until cancelled."""
    while True:
        longest, ends = 0.0, clock.monotonic() + LOOP_PERIOD_SECONDS
        while (before := clock.monotonic()) < ends:
            await clock.sleep(HEARTBEAT_SECONDS)
            longest = max(longest, clock.monotonic() - before - HEARTBEAT_SECONDS)
        meter.set(LOOP_DELAY_SECONDS, longest)
