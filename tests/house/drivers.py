"""Which file may import which library: drivers at the edge, wire types where wire meets domain, the kernel on its own."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from typing import Final

from tests.house.rules import Found
from tests.house.tree import Module, imports_of

# Library -> where it may be imported, with the reason for each place that its name does not explain.
DRIVERS: Final[dict[str, dict[str, str]]] = {
    "asyncpg": {
        "*/postgres*.py": "the adapter",
        "cells/provision.py": "an app: names the driver's errors",
        "cli/local/databases.py": "makes the databases of a one-machine fleet",
        "cli/demo/*.py": "the demonstration counts rows behind the services' backs; that is its proof",
    },
    "aiokafka": {"*/kafka*.py": "the adapter"},
    "aws_msk_iam_sasl_signer": {"cells/eventlog/kafka_login.py": "signs in to Kafka in AWS"},
    "botocore": {"cells/eventlog/kafka_login.py": "names the signer's errors"},
    "grpc": {
        "*/api*.py": "a shell",
        "router/api/*.py": "the directory's shell and client",
        "*/server.py": "a listener",
        "cells/answers.py": "says a Failure on the wire",
        "cells/defects.py": "the outermost shell of both listeners",
        "cells/admission/directory.py": "the client of the directory",
        "cli/directory.py": "a client",
        "cli/query.py": "a client",
        "cli/demo/*.py": "a client",
    },
    "starlette": {
        "*/api*.py": "a shell",
        "cells/ops.py": "the probes",
        "router/probes.py": "the probes",
        "*/server.py": "a listener",
        "cells/defects.py": "the outermost shell of both listeners",
        "cells/process.py": "holds the roles' routes",
    },
    "uvicorn": {"*/server.py": "a listener", "router/probes.py": "a listener"},
    "opentelemetry": {
        "kernel/process/*.py": "the one place that configures it",
        "cells/tracing.py": "traceparent in and out",
        "cells/*/api*.py": "the shells' spans",
        "cells/processing/partition.py": "a shell: one span per round, linked to the records' spans",
        "cells/storage/ask.py": "a shell: the span of a question",
    },
    "prometheus_client": {"kernel/process/telemetry.py": "the one place that knows it"},
    "structlog": {"kernel/process/logs.py": "the one place that configures it", "*/app.py": "names the logger's type"},
    "cryptography": {"kernel/process/journal.py": "signs and verifies", "cli/local/*.py": "makes the zone's key"},
    "envoy": {"router/xds/*.py": "renders"},
    "xds": {"router/xds/*.py": "renders"},
}

# Wire types: generated protobuf classes, ours and Google's.
WIRE: Final = (
    "*/api*.py",
    "*/codec*.py",
    "*/server.py",
    "router/api/*.py",
    "router/xds/*.py",
    "cells/answers.py",
    "cells/defects.py",  # parses what gRPC received
    "cells/admission/directory.py",
    "cells/roles.py",  # registers the servicers
    "cli/directory.py",
    "cli/query.py",
    "cli/commands/*.py",  # show what directories and cells answer
    "cli/demo/*.py",
)
_WIRE_ROOTS: Final = {"dataflow", "google"}

# Room -> the rooms that it may import.
NEIGHBOURS: Final[dict[str, set[str]]] = {
    "kernel": set(),
    "router": {"kernel"},
    "cells": {"kernel"},
    "gitops": {"kernel"},
    "slo": {"kernel", "gitops"},
    "chaos": {"kernel", "gitops", "slo"},
    "cli": {"kernel", "gitops", "slo", "chaos"},
    "docs": {"kernel", "gitops", "slo", "router", "cells", "cli"},
    "bench": {"kernel", "gitops", "slo", "router", "cells", "cli", "chaos"},
}
_FREE: Final = ("tests", "bench", "docs")


def drivers_at_the_edge(module: Module) -> Found:
    """A library that talks to something outside is imported where DRIVERS says, and nowhere else."""
    if module.room in _FREE:
        return
    for line, name in imports_of(module):
        allowed = DRIVERS.get(name.split(".")[0])
        if allowed is not None and not any(fnmatch(module.path, pattern) for pattern in allowed):
            yield line, f"imports {name}"


def wire_types_at_the_wire(module: Module) -> Found:
    """What crosses between services is translated at once: no core, port or shell holds a protobuf message."""
    if module.room in _FREE or any(fnmatch(module.path, pattern) for pattern in WIRE):
        return
    for line, name in imports_of(module):
        if name.split(".")[0] in _WIRE_ROOTS:
            yield line, f"imports {name}"


def kernel_stands_alone(module: Module) -> Found:
    """The kernel without its impure shelf imports the standard library and itself."""
    if module.room != "kernel" or module.path.startswith("kernel/process/"):
        return
    for line, name in imports_of(module):
        root = name.split(".")[0]
        if root not in sys.stdlib_module_names | {"kernel", "__future__"} or name.startswith("kernel.process"):
            yield line, f"imports {name}"


def rooms_know_their_neighbours(module: Module) -> Found:
    """Rooms import only the rooms that NEIGHBOURS names."""
    known = NEIGHBOURS.get(module.room)
    if known is None:
        return
    for line, name in imports_of(module):
        root = name.split(".")[0]
        if (root in NEIGHBOURS or root == "tests") and root not in known | {module.room}:
            yield line, f"imports {name}"


DRIVER_RULES: Final = (drivers_at_the_edge, wire_types_at_the_wire, kernel_stands_alone, rooms_know_their_neighbours)
