"""A cell's spans: one per request, one per range of the log, one per apply; ranges link to the requests that they carry.

A span names a tenant, counts and reasons, never what a customer sent: exceptions leave their class or their reason's name, no
message. Without an exporter nothing is made at all: `Spans.start` gives one shared object that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from opentelemetry import context as contexts
from opentelemetry import trace

from kernel.errors import Failure

HEADER: Final = "traceparent"
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_OUR_FAULT: Final = 500


def traceparent_of(text: str | bytes | None) -> str:
    """The W3C traceparent, or empty when a client sent none or something else: what it sent goes into the log."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else ""


def current_traceparent() -> str:
    """The span that runs now, for the next process; empty when there is none."""
    return _text_of(trace.get_current_span().get_span_context())


class Span:
    """Nothing: what `Spans.start` gives when no spans are exported."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        return None

    @property
    def traceparent(self) -> str:
        """What the next step links to; empty."""
        return ""

    def note(self, name: str, value: str | int) -> None:
        """Says something about what is done: a count, a reason, a tenant's or a cell's name."""


class _Recorded(Span):
    """A span that is exported once it ends. It is the current one inside its block."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        contexts.detach(self._token)
        if error is not None:
            self._fail(error)
        self._span.end()

    @property
    def traceparent(self) -> str:
        """What the next step links to."""
        return _text_of(self._span.get_span_context())

    def note(self, name: str, value: str | int) -> None:
        """See `Span.note`."""
        self._span.set_attribute(f"dataflow.{name}", value)

    def _fail(self, error: BaseException) -> None:
        failure = error if isinstance(error, Failure) else None
        named = failure.reason.name if failure else type(error).__name__
        self._span.set_attribute("error.type", named)
        if failure is None or failure.reason.spec.http >= _OUR_FAULT:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, named))


_NOTHING: Final = Span()


class Spans:
    """The spans of one process."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = None if isinstance(tracer, trace.NoOpTracer) else tracer

    def start(self, name: str, parent: str = "", links: Iterable[str] = (), kind: trace.SpanKind = trace.SpanKind.INTERNAL) -> Span:
        """A span for a `with` block: below the traceparent `parent`, or else below the current span; linked to traceparents."""
        if self._tracer is None:
            return _NOTHING
        remote = _context_of(parent)
        above = trace.set_span_in_context(trace.NonRecordingSpan(remote)) if remote else None
        return _Recorded(self._tracer.start_span(name, above, kind, links=_links(links)))


OFF: Final = Spans(trace.NoOpTracer())


def _links(traceparents: Iterable[str]) -> Sequence[trace.Link]:
    """Each span once: the records of one request share theirs."""
    return [trace.Link(context) for text in dict.fromkeys(traceparents) if (context := _context_of(text)) is not None]


def _context_of(text: str) -> trace.SpanContext | None:
    found = _TRACEPARENT.fullmatch(text)
    return trace.SpanContext(int(found[1], 16), int(found[2], 16), True, trace.TraceFlags(int(found[3], 16))) if found else None


def _text_of(context: trace.SpanContext) -> str:
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
