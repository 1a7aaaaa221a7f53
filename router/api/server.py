"""The directory's gRPC server: tokens at the door, failures as rich statuses, keepalive, health and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from dataflow.routing.v1 import routing_pb2
from kernel.errors import Failure, Reason
from kernel.metrics import Meter
from router import metrics
from router.api.errors import status_of
from router.api.service import RouterService, add_to
from router.api.tokens import Tokens, caller

SERVICE: Final = routing_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name
_MESSAGE_BYTES_MAX: Final = 64 * 1024
_CALLS_MAX: Final = 1_000
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", -1),  # a whole table is one message
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class Door(grpc.aio.ServerInterceptor):
    """Checks the token of every RouterService call, and turns a Failure into a status. Health and reflection are open."""

    def __init__(self, tokens: Tokens, meter: Meter) -> None:
        self._tokens = tokens
        self._meter = meter

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wraps the handler."""
        handler = await continuation(details)
        service, _, method = details.method.lstrip("/").partition("/")
        if handler is None or service != SERVICE:
            return handler
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        authorization = metadata.get("authorization")
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, authorization, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, authorization, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, method: str, authorization: str | None, call: Any) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                caller.set(self._tokens.check(authorization, method).name)
                answer = await call(request, context)
            except Failure as failure:
                await self._refuse(method, context, failure)
            else:
                self._count(method, "OK")
                return answer

        return guarded

    def _stream(self, method: str, authorization: str | None, call: Any) -> Any:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                caller.set(self._tokens.check(authorization, method).name)
                self._count(method, "OK")
                async for answer in call(request, context):
                    yield answer
            except Failure as failure:
                await self._refuse(method, context, failure)

        return guarded

    async def _refuse(self, method: str, context: Any, failure: Failure) -> None:
        self._count(method, failure.reason.name)
        await context.abort_with_status(rpc_status.to_status(status_of(failure)))

    def _count(self, method: str, outcome: str) -> None:
        self._meter.add(metrics.DIRECTORY_CALLS, method=method, outcome=outcome)


class DirectoryServer:
    """A started server; `drain` says NOT_SERVING and ends what runs."""

    def __init__(self, server: grpc.aio.Server, probe: Any, port: int) -> None:
        self._server = server
        self._probe = probe
        self.port = port

    async def drain(self, seconds: float) -> None:
        """Watches are ended after `seconds`, unary calls are let finish until then."""
        await self._probe.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(seconds)


async def serve(service: RouterService, tokens: Tokens, meter: Meter, bind: str) -> DirectoryServer:
    """Serves on `bind`; port 0 takes a free one. Raises Failure(INTERNAL) when the port is taken."""
    server = grpc.aio.server(options=_OPTIONS, interceptors=(Door(tokens, meter),), maximum_concurrent_rpcs=_CALLS_MAX)
    add_to(server, service)
    probe = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(probe, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(bind)
    except RuntimeError as error:
        raise Failure(Reason.INTERNAL, f"cannot listen on {bind}") from error
    await server.start()
    await cast("Any", probe).set("", health_pb2.HealthCheckResponse.SERVING)
    return DirectoryServer(server, probe, port)
