"""Structured logs: one JSON object a line on standard error. Customer data never goes into one; ids, counts and reasons do."""

from __future__ import annotations

import logging
import sys
from typing import cast

import structlog


def configure(service: str, level: str = "info") -> structlog.stdlib.BoundLogger:
    """Sets logging up for the process and returns its logger, bound to the service's name."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(service=service))
