"""The delta ADS server on loopback: shows every connected Envoy the latest snapshot, and takes note of what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from kernel.metrics import Meter
from router import metrics
from router.xds.delta import Acked, Nacked, Request, Response, Stream
from router.xds.snapshot import ORDER, Snapshot

_OPTIONS: Final = (("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_NACK_CHARS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Refusal:
    """Envoy's own words on a snapshot that it did not take; it stands until a newer snapshot is taken whole."""

    revision: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class AdsStatus:
    """What is offered, what an Envoy has taken whole (0: nothing yet), what one refused, and how many are connected."""

    offered_revision: int
    taken_revision: int
    refusal: Refusal | None
    streams: int


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # the generated base class is untyped
    """A latest-value slot with readers: a stream that lags skips to the newest snapshot. All calls on one event loop."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._offered: Snapshot | None = None
        self._taken: Snapshot | None = None
        self._refusal: Refusal | None = None
        self._wakes: set[asyncio.Event] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Offers a snapshot that passed `consistent`."""
        self._offered = snapshot
        self._wake()

    @property
    def status(self) -> AdsStatus:
        """What a person asks first."""
        offered = self._offered.revision if self._offered else 0
        taken = self._taken.revision if self._taken else 0
        return AdsStatus(offered, taken, self._refusal, len(self._wakes))

    async def DeltaAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One Envoy's stream."""
        stream, wake = Stream(), asyncio.Event()
        self._wakes.add(wake)
        self._meter.set(metrics.EDGE_ENVOYS, len(self._wakes))
        reader = asyncio.create_task(self._read(requests, stream, wake))
        try:
            while not reader.done():
                await wake.wait()
                wake.clear()
                while self._offered is not None and (response := stream.send(self._offered)) is not None:
                    message = _message(response, self._offered.revision)
                    self._meter.add(metrics.EDGE_XDS_SENT, message.ByteSize(), type=_short(response.kind))
                    yield message
                self._settle(stream)
        finally:
            reader.cancel()
            self._wakes.discard(wake)
            self._meter.set(metrics.EDGE_ENVOYS, len(self._wakes))

    async def _read(self, requests: AsyncIterator[Any], stream: Stream, wake: asyncio.Event) -> None:
        try:
            async for message in requests:
                if message.type_url in ORDER:
                    self._note(stream.receive(_request(message)))
                    wake.set()
        finally:
            wake.set()

    def _note(self, answer: Acked | Nacked | None) -> None:
        if isinstance(answer, Acked):
            self._meter.add(metrics.EDGE_XDS_ACKS, type=_short(answer.kind))
        elif isinstance(answer, Nacked):
            self._meter.add(metrics.EDGE_XDS_NACKS, type=_short(answer.kind))
            self._refusal = Refusal(answer.snapshot.revision, _short(answer.kind), answer.error[:_NACK_CHARS_MAX])
            if answer.snapshot is self._offered and self._taken is not None:
                self._offered = self._taken  # the last good one, to all
                self._wake()

    def _settle(self, stream: Stream) -> None:
        offered = self._offered
        if offered is None or offered is self._taken or not stream.settled(offered):
            return
        self._taken = offered
        self._meter.set(metrics.EDGE_TAKEN_REVISION, offered.revision)
        self._refusal = None

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()


async def serve(ads: AdsServer, bind: str) -> grpc.aio.Server:
    """Serves on `bind` (`host:port`, loopback). Raises OSError when the port is taken."""
    server = grpc.aio.server(options=_OPTIONS)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    try:
        server.add_insecure_port(bind)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {bind}") from error
    await server.start()
    return server


def _request(message: Any) -> Request:
    refused = message.HasField("error_detail")
    return Request(
        kind=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if refused else None,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )


def _message(response: Response, revision: int) -> Any:
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.kind, nonce=response.nonce, system_version_info=str(revision), removed_resources=response.removed
    )
    for resource in response.resources:
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url = response.kind
        entry.resource.value = resource.body
    return message


def _short(kind: str) -> str:
    return kind.rpartition(".")[2]
