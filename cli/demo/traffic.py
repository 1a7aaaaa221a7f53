"""Real clients: the official Segment SDK over HTTP and a gRPC client, for one tenant each. They keep their own list of what they were told.

The list is the truth that the oracle compares with; it lives in this process, outside everything that is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio
from google.protobuf import timestamp_pb2
from segment.analytics.client import Client

from chaos.checkers.history import Answer, Sent
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2

_GRPC_BATCH: Final = 25
_ATTEMPTS_MAX: Final = 200
_RETRY_SECONDS: Final = 0.25
_CALL_SECONDS: Final = 5.0
_USERS: Final = 20
_STUFFING: Final = 200
_AGAIN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass
class Tenant:
    """A tenant of the demo, with the keys that its clients hold."""

    name: str
    zone: str
    cell: str
    endpoint: str
    address: str
    write_key: str
    read_key: str
    canary: str
    sealed: str
    sent: list[Sent] = field(default_factory=list)
    born: dict[str, float] = field(default_factory=dict)


class GrpcSender:
    """A sequential client: one batch after the other, each until it has its last word."""

    def __init__(self, tenant: Tenant, batches_per_second: float) -> None:
        self._tenant = tenant
        self._gap = 1.0 / batches_per_second
        self._numbers = itertools.count()

    async def run(self, stop: asyncio.Event) -> None:
        """Sends on its schedule until it is told to stop; late batches go out at once."""
        async with grpc.aio.insecure_channel(self._tenant.address) as channel:
            stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
            due = time.monotonic()
            while not stop.is_set():
                await self._batch(stub)
                due = max(due + self._gap, time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _batch(self, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
        numbers = list(itertools.islice(self._numbers, _GRPC_BATCH))
        ids = [f"grpc-{self._tenant.name}-{number}" for number in numbers]
        user = f"grpc-user-{numbers[0] // _GRPC_BATCH % _USERS}"
        now = time.time()
        stamp = timestamp_pb2.Timestamp(seconds=int(now), nanos=int(now % 1 * 1e9))
        events = [
            event_pb2.Event(
                message_id=message_id,
                type=event_pb2.EVENT_TYPE_TRACK,
                user_id=user,
                name="Product Viewed",
                timestamp=stamp,
                json=json.dumps({"sku": number % 997, "price": 9.99}).encode(),
            )
            for number, message_id in zip(numbers, ids, strict=True)
        ]
        self._tenant.born.update(dict.fromkeys(ids, now))
        answer = await self._deliver(stub, ingest_pb2.IngestRequest(events=events, sent_at=stamp))
        self._tenant.sent.extend(
            Sent(self._tenant.name, user, message_id, number, answer) for number, message_id in zip(numbers, ids, strict=True)
        )

    async def _deliver(self, stub: ingest_pb2_grpc.IngestServiceAsyncStub, request: ingest_pb2.IngestRequest) -> Answer:
        """The same bytes again and again while the answer says so: message ids make it harmless."""
        metadata = (("authorization", f"Bearer {self._tenant.write_key}"),)
        for _ in range(_ATTEMPTS_MAX):
            try:
                response = await stub.Ingest(request, metadata=metadata, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    return "rejected"
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            return "acknowledged" if response.accepted == len(request.events) else "rejected"
        return "unknown"


async def send_canary(tenant: Tenant, token: str, sealed: bool = False) -> None:
    """One event of its own request that carries `token`: small enough to stand uncompressed in the log, the store and their WAL, or
    `sealed`, so large that its record is compressed and only who opens that finds the token."""
    message_id = f"canary-{tenant.name}-{len(tenant.sent)}"
    client = Client(tenant.write_key, host=tenant.endpoint, sync_mode=True)
    await asyncio.to_thread(
        client.track, "canary", "Canary", {"token": token, "stuffing": "stuffing " * _STUFFING * sealed}, message_id=message_id
    )
    tenant.sent.append(Sent(tenant.name, "canary", message_id, None, "acknowledged"))


class SdkSender:
    """Segment's Python SDK on a thread of its own, as an application would use it."""

    def __init__(self, tenant: Tenant, events_per_second: float) -> None:
        self._tenant = tenant
        self._gap = 1.0 / events_per_second
        self._failed: set[str] = set()
        self._sent: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._give_up = False
        self._client = Client(
            tenant.write_key, host=tenant.endpoint, on_error=self._on_error, upload_size=100, upload_interval=0.1, gzip=True, timeout=5
        )

    def run(self) -> None:
        """Tracks on its schedule until `stop`, then flushes: `shutdown` returns when the SDK has its last word on every event."""
        for number in itertools.count():
            if self._stop.wait(self._gap):
                break
            message_id, user = f"sdk-{self._tenant.name}-{number}", f"sdk-user-{number % _USERS}"
            self._tenant.born[message_id] = time.time()
            self._sent.append((message_id, user))
            if number % 50 == 0:
                self._client.identify(
                    user, {"plan": "gold", "visits": number}, anonymous_id=f"device-{number % _USERS}", message_id=message_id
                )
            else:
                self._client.track(user, "Order Completed", {"total": number / 100, "currency": "EUR"}, message_id=message_id)
        if self._give_up:
            self._client.join()
        else:
            self._client.shutdown()
        self._tenant.sent.extend(
            Sent(self._tenant.name, user, message_id, None, "unknown" if message_id in self._failed else "acknowledged")
            for message_id, user in self._sent
        )

    def stop(self, at_once: bool) -> None:
        """Ends the schedule; `at_once` also gives up on what the SDK still holds."""
        self._give_up = at_once
        self._stop.set()

    def _on_error(self, _: Exception, batch: list[dict[str, str]]) -> None:
        self._failed.update(message["messageId"] for message in batch)


@dataclass
class Traffic:
    """All clients of all tenants."""

    tenants: list[Tenant]
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _senders: list[SdkSender] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _threads: list[asyncio.Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(len(self.tenants), "segment-sdk")

    async def __aenter__(self) -> Self:
        """Begins to send."""
        for tenant in self.tenants:
            self._tasks.append(asyncio.create_task(GrpcSender(tenant, 8.0).run(self._stop)))
            sender = SdkSender(tenant, 40.0)
            self._senders.append(sender)
            # Threads of their own: the loop's default executor belongs to the supervisor, which needs it to restart a database.
            self._threads.append(asyncio.get_running_loop().run_in_executor(self._executor, sender.run))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the schedules and waits until every client has its last word on every event; after an error nobody waits."""
        self._stop.set()
        for sender in self._senders:
            sender.stop(at_once=error is not None)
        await asyncio.gather(*self._tasks, *self._threads)
        self._executor.shutdown(wait=False)
