"""How far another cell's log is kept, through a storage role of its own: over gRPC the laws are the port's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.replication.replicator import Positions
from cells.server import GrpcServer
from cells.storage.api_client import GrpcStore
from cells.storage.api_grpc import StorageGrpc
from cells.storage.memory import MemoryStore
from dataflow.storage.v1 import storage_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.storage_room import Room, memory_room, postgres_room, room

__all__ = ["memory_room", "postgres_room", "room"]
ONE, OTHER = CellId("eu-central-1-a"), CellId("eu-north-1-a")
LARGEST = 2**63 - 1


@dataclass
class Served:
    """A storage role and its client; `store` is what lies behind."""

    room: Room
    client: GrpcStore
    server: GrpcServer

    async def both(self) -> list[dict[int, int]]:
        """How far the logs of both are kept, as the client is told; the store says the same."""
        told = [await self.client.replicated(origin) for origin in (ONE, OTHER)]
        assert told == [await self.room.store.replicated(origin) for origin in (ONE, OTHER)]
        return told


@pytest.fixture
async def served(room: Room) -> AsyncIterator[Served]:
    server = GrpcServer("127.0.0.1:0")
    storage_pb2_grpc.add_StorageServiceServicer_to_server(StorageGrpc(room.store, SystemClock()), server.server)
    client = GrpcStore(f"127.0.0.1:{await server.start([])}", SystemClock())
    yield Served(room, client, server)
    await client.close()
    await server.stop(0)


async def test_a_position_moves_by_compare_and_set(served: Served) -> None:
    """Law: from where it stands alone, for each cell and partition by itself, and beside the positions of this cell's own log."""
    client = served.client
    assert await served.both() == [{}, {}]
    assert not await client.replicate(ONE, 1, 4, 9), "it stands at the beginning"
    assert await client.replicate(ONE, 1, 0, 4)
    assert not await client.replicate(ONE, 1, 0, 7)
    assert await client.replicate(ONE, 1, 4, LARGEST)
    assert await client.replicate(ONE, 0, 0, 1)
    assert await client.replicate(OTHER, 1, 0, 2)
    assert await served.both() == [{0: 1, 1: LARGEST}, {1: 2}]
    assert await client.positions() == await served.room.store.positions() == {}


@pytest.mark.parametrize(("expected", "following"), [(4, 4), (4, 3), (0, 0), (LARGEST, 0)])
async def test_a_position_never_moves_back(served: Served, expected: int, following: int) -> None:
    """Law: it is refused as a defect, as the port says, and not as a store that may be asked again; nothing is changed."""
    await served.client.replicate(ONE, 1, 0, 4)
    for store in (served.client, served.room.store):
        with pytest.raises(ValueError, match="moves forward"):
            await store.replicate(ONE, 1, expected, following)
    assert await served.both() == [{1: 4}, {}]


async def test_of_many_that_move_it_at_once_one_does(served: Served) -> None:
    """Law: two members of the group that hold the same partition for a moment never both believe that it is theirs."""
    for at in range(5):
        moved = await asyncio.gather(*(served.client.replicate(ONE, 0, 10 * at, 10 * at + 10) for _ in range(8)))
        assert sorted(moved) == [False] * 7 + [True]
    assert await served.both() == [{0: 50}, {}]


async def test_a_storage_role_that_is_gone_is_said_to_be(served: Served) -> None:
    """Law: STORE_UNAVAILABLE, which is waited out."""
    await served.server.stop(0)
    for call in (served.client.replicated(ONE), served.client.replicate(ONE, 0, 0, 1)):
        with pytest.raises(Failure) as refused:
            await call
        assert refused.value.reason is Reason.STORE_UNAVAILABLE


offsets = st.integers(0, 3)
moves = st.lists(st.tuples(st.sampled_from([ONE, OTHER]), st.integers(0, 1), offsets, offsets), max_size=25)


@given(moves)
def test_whatever_is_asked_the_answers_are_the_ports(asked: list[tuple[CellId, int, int, int]]) -> None:
    """Law: through gRPC each answer and refusal is the one that the store itself gives, and so is what is kept in the end."""

    async def tried(store: Positions, move: tuple[CellId, int, int, int]) -> bool | str:
        try:
            return await store.replicate(*move)
        except ValueError as error:
            return "moves forward" in str(error) and "refused"

    async def run() -> None:
        alone, behind = (MemoryStore(SystemClock(), MemoryMeter()) for _ in range(2))
        server = GrpcServer("127.0.0.1:0")
        storage_pb2_grpc.add_StorageServiceServicer_to_server(StorageGrpc(behind, SystemClock()), server.server)
        client = GrpcStore(f"127.0.0.1:{await server.start([])}", SystemClock())
        for move in asked:
            assert await tried(client, move) == await tried(alone, move)
        for origin in (ONE, OTHER):
            assert await client.replicated(origin) == await alone.replicated(origin)
        await client.close()
        await server.stop(0)

    asyncio.run(run())
