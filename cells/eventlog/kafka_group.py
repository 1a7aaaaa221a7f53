"""A member of a consumer group. The group shares the partitions out; it decides about nothing else, for positions are the store's.

The member keeps what it was given until it is given something else: while the group finds together again, or its coordinator is away, two
members may read the same partition, which is harmless, and reading never pauses. Offsets are committed for the tools that show lag.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from cells.eventlog.kafka_brokers import Brokers
from cells.eventlog.kafka_line import Lost, told
from cells.eventlog.kafka_login import Address
from cells.eventlog.share import share
from kernel.clock import Clock
from kernel.errors import Failure, Reason

# A member that is silent for so long has lost its partitions; the least that brokers allow by default.
SESSION_SECONDS: Final = 6.0
_HEARTBEAT_SECONDS: Final = 1.0
_COMMIT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 3.0
# Brokers hold a join until every member has come or its session is over.
_JOIN_SECONDS: Final = SESSION_SECONDS + _ANSWER_SECONDS
# How long the first assignment is waited for: brokers hold a new group's first join for some seconds, so that its members find together.
_FIRST_SECONDS: Final = 10.0
_LEAVE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.25
_PROTOCOL: Final = "dataflow-sticky"
_GROUP: Final = 0
_NO_INSTANCE: Final = None
_NO_GENERATION: Final = -1
# Kafka's numbers: the generation is over, join again; the member is not known, join as a new one; join again with the id given here.
_REJOIN: Final = {22, 27}
_UNKNOWN_MEMBER: Final = {25, 82}
_FORBIDDEN: Final = {29, 30}
_MEMBER_ID_REQUIRED: Final = 79


class KafkaMembership:
    """`cells.eventlog.log.Membership`. `offsets` tells how far each partition is applied, as far as its reader has shown."""

    def __init__(self, brokers: Brokers, group: str, partitions: int, clock: Clock, offsets: Callable[[], Mapping[int, int]]) -> None:
        self._brokers = brokers
        self._group = group
        self._partitions = partitions
        self._clock = clock
        self._offsets = offsets
        self._line = brokers.line()
        self._coordinator: Address | None = None
        self._member, self._generation = "", -1
        self._assigned: frozenset[int] | None = None
        self._trouble: Lost | None = None
        self._news = asyncio.Event()
        self._committed: dict[int, int] = {}
        self._commit_at = clock.monotonic() + _COMMIT_SECONDS
        self._task = asyncio.create_task(self._live(), name=f"eventlog-member-{group}")

    @property
    def trouble(self) -> str | None:
        """Why the member is not in touch with its group; None when it is, and while it joins for the first time."""
        return str(self._trouble) if self._trouble is not None and not self._task.done() else None

    async def assignment(self) -> frozenset[int]:
        """What the member was given last; a first time is waited for a while. Raises Failure(LOG_UNAVAILABLE) when it does not come."""
        if self._task.done():
            return frozenset() if self._task.cancelled() else self._task.result()
        if self._assigned is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_SECONDS):
                    await self._news.wait()
        self._news.clear()
        if self._assigned is None:
            raise Failure(Reason.LOG_UNAVAILABLE, "the group does not answer", retry_after_seconds=1) from self._trouble
        return self._assigned

    async def leave(self) -> None:
        """Says so to the group, within a moment; a coordinator that does not hear it finds out by the silence."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if self._coordinator is not None and self._member:
                with contextlib.suppress(Lost):
                    await self._line.ask(self._coordinator, LeaveGroupRequest(self._group, self._member), _LEAVE_SECONDS)
        self._assigned = None
        await self._line.end()

    async def _live(self) -> NoReturn:
        """Until it is cancelled: finds the coordinator, joins, and says every second that it is there."""
        while True:
            try:
                if self._coordinator is None:
                    self._coordinator = await self._found()
                if self._generation == _NO_GENERATION:
                    await self._join()
                await self._clock.sleep(_HEARTBEAT_SECONDS)
                await self._beat()
            except Lost as lost:
                self._trouble = lost
                if lost.code in _FORBIDDEN:
                    self._news.set()
                await self._start_over(lost)

    async def _start_over(self, lost: Lost) -> None:
        """From the step that `lost` asks for. The assignment stays until there is another one."""
        if lost.code in _REJOIN:
            self._generation = _NO_GENERATION
        elif lost.code in _UNKNOWN_MEMBER:
            self._member, self._generation = "", _NO_GENERATION
        else:
            self._coordinator = None
            await self._clock.sleep(_PAUSE_SECONDS)

    async def _found(self) -> Address:
        """The broker that coordinates the group: any broker knows. Raises Lost."""
        view = self._brokers.view
        try:
            answer = await self._brokers.ask_any(FindCoordinatorRequest(self._group, _GROUP))
        except Lost:
            await self._brokers.renew(view)
            raise
        told(answer.error_code, f"the coordinator of group {self._group}")
        return Address(answer.host, answer.port)

    async def _join(self) -> None:
        """Joins, and deals the partitions out when the group asks this member to. Raises Lost."""
        join = await self._asked_to_join()
        if join.error_code == _MEMBER_ID_REQUIRED:
            self._member = join.member_id
            join = await self._asked_to_join()
        told(join.error_code, f"joining group {self._group}")
        self._member = join.member_id
        shares = self._shares(join.members) if join.leader_id == join.member_id else []
        request = SyncGroupRequest(self._group, join.generation_id, self._member, _NO_INSTANCE, shares)
        sync = await self._ask(request, _JOIN_SECONDS)
        told(sync.error_code, f"joining group {self._group}")
        assignment = ConsumerProtocolMemberAssignment.decode(sync.member_assignment).assignment
        self._generation, self._trouble = join.generation_id, None
        self._assigned = frozenset(partition for _, numbers in assignment for partition in numbers)
        self._news.set()

    async def _asked_to_join(self) -> Any:
        held = ",".join(map(str, sorted(self._assigned or ()))).encode()
        metadata = ConsumerProtocolMemberMetadata(0, [self._brokers.topic], held).encode()
        millis = int(SESSION_SECONDS * 1_000)
        protocols = [(_PROTOCOL, metadata)]
        kind = ConsumerProtocol.PROTOCOL_TYPE
        request = JoinGroupRequest(self._group, millis, millis, self._member, _NO_INSTANCE, kind, protocols)
        return await self._ask(request, _JOIN_SECONDS)

    def _shares(self, members: list[Any]) -> list[tuple[str, bytes]]:
        """What each member is given, as the group's protocol has it. Tools read it too."""
        held = {member: _held(metadata) for member, *_, metadata in members}
        return [
            (member, ConsumerProtocolMemberAssignment(0, [(self._brokers.topic, numbers)], b"").encode())
            for member, numbers in share(self._partitions, held).items()
        ]

    async def _beat(self) -> None:
        """Says that the member is there, and now and then how far it is. Raises Lost."""
        answer = await self._ask(HeartbeatRequest(self._group, self._generation, self._member), _ANSWER_SECONDS)
        told(answer.error_code, f"membership of group {self._group}")
        self._trouble = None
        if self._clock.monotonic() < self._commit_at:
            return
        self._commit_at = self._clock.monotonic() + _COMMIT_SECONDS
        offsets = {p: offset for p, offset in self._offsets().items() if p in (self._assigned or ())}
        news = [(p, offset, "") for p, offset in offsets.items() if self._committed.get(p) != offset]
        if news:
            topics = [(self._brokers.topic, news)]
            await self._ask(OffsetCommitRequest(self._group, self._generation, self._member, -1, topics), _ANSWER_SECONDS)
            self._committed = offsets

    async def _ask(self, request: Any, seconds: float) -> Any:
        if self._coordinator is None:
            raise Lost(f"group {self._group} has no coordinator")
        return await self._line.ask(self._coordinator, request, seconds)


def _held(metadata: bytes) -> list[int]:
    """What a member says that it reads; nothing when that cannot be read."""
    said = ConsumerProtocolMemberMetadata.decode(metadata).user_data or b""
    numbers = said.decode("ascii", "replace").split(",")
    return [int(number) for number in numbers if number.isdigit()]
