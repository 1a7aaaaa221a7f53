"""The outermost shell of a gRPC listener: what it takes for a defect of ours."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cells.server import GrpcServer
from dataflow.storage.v1 import storage_pb2, storage_pb2_grpc


class Ending(storage_pb2_grpc.StorageServiceServicer):
    """Ends each RPC in one way."""

    def __init__(self, way: Exception) -> None:
        self._way = way

    async def Apply(self, request: storage_pb2.ApplyRequest, context: Any) -> storage_pb2.ApplyResponse:
        raise self._way

    async def Positions(self, request: storage_pb2.PositionsRequest, context: Any) -> storage_pb2.PositionsResponse:
        raise self._way

    async def Replicated(self, request: storage_pb2.ReplicatedRequest, context: Any) -> storage_pb2.PositionsResponse:
        raise self._way

    async def Replicate(self, request: storage_pb2.ReplicateRequest, context: Any) -> storage_pb2.ReplicateResponse:
        raise self._way


@pytest.mark.parametrize(
    ("way", "reported"),
    [
        (grpc.aio.InternalError("as when the caller's connection breaks while it is answered"), 0),
        (RuntimeError("a bug"), 1),
    ],
    ids=["the caller is gone", "a bug"],
)
async def test_a_caller_that_goes_while_it_is_answered_is_no_defect(way: Exception, reported: int) -> None:
    """Law: operators read of what is ours to mend alone."""
    defects: list[BaseException] = []
    server = GrpcServer("127.0.0.1:0", lambda _, defect: defects.append(defect))
    storage_pb2_grpc.add_StorageServiceServicer_to_server(Ending(way), server.server)
    port = await server.start(["dataflow.storage.v1.StorageService"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: storage_pb2_grpc.StorageServiceAsyncStub = storage_pb2_grpc.StorageServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Positions(storage_pb2.PositionsRequest(), timeout=5)
    await server.stop(0.5)
    assert len(defects) == reported
