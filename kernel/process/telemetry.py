"""OpenTelemetry for a process: traces (exported over OTLP when configured) and metrics (Prometheus text, and OTLP likewise)."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kernel.metrics import Metric

_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class PrometheusMeter:
    """`kernel.metrics.Meter` over a registry of exactly the declared metrics; any other is a KeyError."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
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
        counter = self._counters[metric.name]
        (counter.labels(**labels) if labels else counter).inc(value)

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


def tracer(service: str, attributes: dict[str, str], otlp_endpoint: str) -> trace.Tracer:
    """A tracer that exports to `otlp_endpoint` (an OTLP/HTTP base URL); with an empty one spans cost next to nothing."""
    if not otlp_endpoint:
        return trace.NoOpTracer()
    provider = TracerProvider(resource=Resource.create({"service.name": service, **attributes}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")))
    return provider.get_tracer(service)
