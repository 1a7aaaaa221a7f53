"""What each file of the services is. A file that no line names is a core: pure, synchronous, without any ambient.

A new file is a core by default; whoever needs more says so here, in review.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Final, Literal

Place = Literal["core", "port", "memory", "shell", "driver", "app"]

JUDGED: Final = ("kernel", "router", "cells", "chaos", "gitops", "slo")
# Tried in order; the first pattern that fits decides. A port may be asynchronous, a memory adapter may wait on events, a shell
# holds tasks, a driver talks to something outside, an app reads the environment and the clock.
PLACES: Final[tuple[tuple[str, Place], ...]] = (
    ("kernel/process/*", "app"),
    ("*/app.py", "app"),
    ("*/config.py", "app"),
    ("cells/roles.py", "app"),
    ("cells/provision.py", "app"),
    ("kernel/clock.py", "port"),
    ("*/log.py", "port"),
    ("*/store.py", "port"),
    ("cells/storage/audit.py", "port"),
    ("cells/storage/copies.py", "port"),
    ("router/evacuation/cells.py", "port"),
    ("cells/replication/origin.py", "port"),
    ("router/agent/feed.py", "port"),
    ("*/memory*.py", "memory"),
    ("*/postgres*.py", "driver"),
    ("*/kafka*.py", "driver"),
    ("*/api*.py", "driver"),
    ("router/api/client.py", "driver"),
    ("router/api/server.py", "driver"),
    ("router/api/service.py", "driver"),
    ("router/xds/server.py", "driver"),
    ("*/server.py", "driver"),
    ("*/directory.py", "driver"),
    ("*/answers.py", "driver"),
    ("cells/ops.py", "driver"),
    ("cells/defects.py", "driver"),
    ("router/probes.py", "driver"),
    ("router/placement/replica.py", "port"),
    ("router/placement/turns.py", "shell"),
    ("router/quorum/peers.py", "port"),
    ("router/quorum/voter.py", "shell"),
    ("router/quorum/site.py", "shell"),
    ("router/quorum/leader.py", "shell"),
    ("router/quorum/election.py", "shell"),
    ("router/quorum/ballot_file.py", "driver"),
    ("router/api/mirror.py", "shell"),
    ("router/agent/follow.py", "shell"),
    ("router/agent/observe.py", "shell"),
    ("cells/process.py", "shell"),
    ("cells/admission/follow.py", "shell"),
    ("cells/ingest/accept.py", "shell"),
    ("cells/ingest/fence.py", "shell"),
    ("cells/ingest/turns.py", "shell"),
    ("cells/ingest/body.py", "shell"),
    ("cells/eventlog/retention.py", "shell"),
    ("cells/eventlog/member.py", "shell"),
    ("cells/processing/consumer.py", "shell"),
    ("cells/replication/replicator.py", "shell"),
    ("cells/processing/partition.py", "shell"),
    ("cells/processing/locate.py", "shell"),
    ("cells/storage/ask.py", "shell"),
    ("cells/storage/export.py", "shell"),
    ("router/evacuation/execute.py", "shell"),
    ("router/evacuation/failover.py", "shell"),
    ("router/evacuation/joins.py", "shell"),
    ("router/evacuation/lookout.py", "shell"),
    ("router/evacuation/make.py", "shell"),
    ("router/evacuation/standby.py", "shell"),
    ("cells/storage/auditor.py", "shell"),
)


def place_of(path: str) -> Place | None:
    """What the file is; None for rooms that are not judged: the command line, tests, benchmarks."""
    if path.split("/", 1)[0] not in JUDGED:
        return None
    return next((place for pattern, place in PLACES if fnmatch(path, pattern)), "core")
