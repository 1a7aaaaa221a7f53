"""Every kind of fault of the plan, and what does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tests.faults import faults_brokers as brokers
from tests.faults import faults_roles as roles
from tests.faults import faults_store as store
from tests.faults.plan import Fault
from tests.faults.session import Session

KINDS: Final[dict[str, Callable[[Session, Fault], Awaitable[None]]]] = {
    "broker killed": brokers.kill_leader,
    "coordinator killed": brokers.kill_coordinator,
    "majority killed": brokers.kill_majority,
    "broker paused": brokers.pause_leader,
    "broker paused for long": brokers.pause_leader,
    "coordinator paused": brokers.pause_coordinator,
    "disk full": brokers.fill_disk,
    "ingest killed": roles.kill_ingest,
    "ingest paused": roles.pause_ingest,
    "processing killed": roles.kill_processing,
    "processing paused": roles.pause_processing,
    "processing paused for long": roles.pause_processing,
    "storage killed": roles.kill_storage,
    "storage paused": roles.pause_storage,
    "member leaves": roles.leave_group,
    "group reset": roles.reset_group,
    "backend killed": store.kill_backend,
    "backend paused": store.pause_backend,
    "member joins": store.join_group,
    "foreign record": store.put_foreign_record,
    "record too large": store.send_too_large,
}
