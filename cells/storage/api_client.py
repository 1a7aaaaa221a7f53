"""The store as a separate processing role sees it: Apply and Positions of its cell's storage role over gRPC."""

from __future__ import annotations

import grpc

from cells.storage import codec_grpc as codec
from cells.tracing import HEADER, current_traceparent
from dataflow.storage.v1 import storage_pb2, storage_pb2_grpc
from kernel.clock import Clock
from kernel.effects import Apply, Outcome, Unkeepable
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from kernel.limits import APPLY_BYTES_MAX, QUERY_SECONDS_MAX

_OPTIONS = (
    ("grpc.max_send_message_length", APPLY_BYTES_MAX),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcStore:
    """What processing and replication need of the port. `address` is host:port of the storage role; the channel connects by itself."""

    def __init__(self, address: str, clock: Clock) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: storage_pb2_grpc.StorageServiceAsyncStub = storage_pb2_grpc.StorageServiceStub(self._channel)
        self._clock = clock

    async def close(self) -> None:
        """Cuts the channel. Idempotent."""
        await self._channel.close(None)

    async def positions(self) -> dict[int, int]:
        """See the port."""
        try:
            answer = await self._stub.Positions(storage_pb2.PositionsRequest(), timeout=QUERY_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return dict(answer.positions)

    async def replicated(self, origin: CellId) -> dict[int, int]:
        """See the port."""
        try:
            answer = await self._stub.Replicated(storage_pb2.ReplicatedRequest(origin=origin), timeout=QUERY_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return dict(answer.positions)

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        """See the port."""
        request = storage_pb2.ReplicateRequest(origin=origin, partition=partition, expected=expected, next=following)
        try:
            return (await self._stub.Replicate(request, timeout=QUERY_SECONDS_MAX)).moved
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ValueError(error.details()) from error
            raise _failure(error) from error

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        """See the port."""
        seconds = deadline - self._clock.monotonic()
        if seconds <= 0:
            raise Failure(Reason.STORE_UNAVAILABLE, "no time was left")
        try:
            answer = await self._stub.Apply(codec.apply_request(apply), timeout=seconds, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise Unkeepable(error.details()) from error
            raise _failure(error) from error
        return codec.outcome_of(answer)


def _metadata() -> tuple[tuple[str, str], ...]:
    running = current_traceparent()
    return ((HEADER, running),) if running else ()


def _failure(error: grpc.aio.AioRpcError) -> Failure:
    return Failure(Reason.STORE_UNAVAILABLE, error.code().name)
