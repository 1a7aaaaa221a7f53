"""Whoever follows a directory at several sites finds the one that answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cells.admission.directory import GrpcDirectory
from cli.directory import Directory
from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel.errors import Failure
from router.agent.api_observe import GrpcSights
from router.agent.feed import FeedLost
from router.api.client import DirectoryFeed
from tests.support.processes import free_port


class Leading(routing_pb2_grpc.RouterServiceServicer):
    """Answers a follower and an observer."""

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[pb.SignedUpdate]:
        yield pb.SignedUpdate(update=b"news")

    async def ReportView(self, request: Any, context: Any) -> pb.ReportViewResponse:
        return pb.ReportViewResponse(cells=[pb.CellEndpoint(cell="a1", grpc_address="here")])


@contextlib.asynccontextmanager
async def sites() -> AsyncIterator[str]:
    """Two addresses; at the second one somebody leads."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    routing_pb2_grpc.add_RouterServiceServicer_to_server(Leading(), server)  # type: ignore[abstract]  # the methods in use
    told = health.aio.HealthServicer()
    await told.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    await server.start()
    try:
        yield f"127.0.0.1:{free_port()},127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_an_observer_asks_the_next_site() -> None:
    """Law: after one that does not answer, and keeps to one that does."""
    async with sites() as addresses:
        sights = GrpcSights(addresses, "token")
        with pytest.raises(Failure):
            await sights.report("east", [])
        for _ in range(2):
            assert await sights.report("east", []) == {"a1": "here"}
        await sights.close()


async def test_a_follower_and_a_cell_ask_the_next_site() -> None:
    """Law: as above."""
    async with sites() as addresses:
        feed, directory = DirectoryFeed(addresses, "token", "edge"), GrpcDirectory(addresses, "token", "cell")
        with pytest.raises(FeedLost):
            await anext(feed.watch(0, lambda: None))
        assert (await anext(feed.watch(0, lambda: None)))[0] == b"news"
        with pytest.raises(ConnectionError):
            await anext(directory.watch(0))
        assert (await anext(directory.watch(0)))[0] == b"news"


async def test_an_operator_asks_the_site_that_leads() -> None:
    """Law: wherever it stands among the addresses."""
    async with sites() as addresses:
        dead, leading = addresses.split(",")
        for order in ((dead, leading), (leading, dead)):
            async with Directory(order, "token") as directory:
                assert directory._address == leading
