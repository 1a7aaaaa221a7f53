"""Structured logs: one JSON object a line on standard error. Customer data never goes into one; ids, counts and reasons do."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final, cast

import structlog

from kernel.errors import Failure

FRAMES_MAX: Final = 30
CAUSES_MAX: Final = 5


def _place(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An exception as its classes and the places it came through. Its message is left out, since it may quote a customer's data;
    a Failure's does not, by its contract."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is None:
        return event
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(kinds) < CAUSES_MAX:
        kinds.append(str(cause) if isinstance(cause, Failure) else type(cause).__qualname__)
        cause = cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    event["error"] = kinds
    event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def configure(service: str, level: str = "info") -> structlog.stdlib.BoundLogger:
    """Sets logging up for the process and returns its logger, bound to the service's name."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, _place, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[_place, structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(service=service))
