"""What a client reads when nothing else has answered: no such path, no such method, a defect of ours - in the shape of all errors.

A defect is told to the operator with its place, never with its message: that may quote what a customer sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from cells.answers import abort, http_answer
from kernel.errors import Failure, Reason

Report = Callable[[str, BaseException], None]
"""Tells the operator where a defect showed itself, and which."""

_NO_METHOD: Final = 405


def unheard(where: str, defect: BaseException) -> None:
    """Nobody is told: for tests."""


class HttpShell:
    """An ASGI application of these routes. Every answer that no route gave is JSON with a code."""

    def __init__(self, routes: Sequence[BaseRoute], report: Report = unheard) -> None:
        self.router = Router(routes, redirect_slashes=False)
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        scope["app"] = self  # routes raise instead of answering in plain text
        try:
            await self.router(scope, receive, sending)
        except HTTPException as refused:
            await refuse(scope, receive, send, _failure(refused), refused.headers)
        except ClientDisconnect:
            return
        except Exception as defect:  # noqa: BLE001  # the outermost shell
            self._report(f"{scope.get('method')} {_shape(scope)}", defect)
            if not began:
                await refuse(scope, receive, send, Failure(Reason.INTERNAL))


def _shape(scope: Scope) -> str:
    """The route's pattern: the path itself may name a person."""
    return str(getattr(scope.get("endpoint"), "__qualname__", "no route"))


def _failure(refused: HTTPException) -> Failure:
    return Failure(Reason.METHOD_NOT_ALLOWED if refused.status_code == _NO_METHOD else Reason.NO_ROUTE)


async def refuse(scope: Scope, receive: Receive, send: Send, failure: Failure, extra: Any = None) -> None:
    """Answers a request with the failure, and with `extra` headers."""
    status, headers, body = http_answer(failure)
    await Response(body, status, {**headers, **(extra or {})})(scope, receive, send)


Behaviour = Callable[[Any, Any], Any]
Parse = Callable[[bytes], Any]


# The RPC was ended on purpose, or its caller went while it was answered, which is no defect of ours: gRPC knows what to do.
_ENDED = (grpc.aio.AbortError, grpc.aio.InternalError)


class GrpcShell(grpc.aio.ServerInterceptor):
    """Parses requests, so that bytes that are none end in MALFORMED_BODY; ends an RPC that raised something unforeseen with INTERNAL."""

    def __init__(self, report: Report = unheard) -> None:
        self._report = report

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler, guarded. Server streams of health and reflection are not ours and stay as they are."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith("/dataflow."):
            return handler
        parse = handler.request_deserializer
        if handler.unary_unary:
            make, guarded = grpc.unary_unary_rpc_method_handler, self._unary(method, handler.unary_unary, parse)
        elif handler.stream_stream:
            make, guarded = grpc.stream_stream_rpc_method_handler, self._stream(method, handler.stream_stream, parse)
        else:
            return handler
        return make(guarded, None, handler.response_serializer)

    def _unary(self, method: str, behaviour: Behaviour, parse: Parse) -> Behaviour:
        async def guarded(request: bytes, context: Any) -> Any:
            try:
                return await behaviour(_parsed(parse, request), context)
            except _ENDED:
                raise
            except Exception as defect:  # noqa: BLE001  # the outermost shell
                await self._end(method, defect, context)

        return guarded

    def _stream(self, method: str, behaviour: Behaviour, parse: Parse) -> Behaviour:
        async def guarded(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            try:
                async for answer in behaviour(_each_parsed(parse, requests), context):
                    yield answer
            except _ENDED:
                raise
            except Exception as defect:  # noqa: BLE001  # the outermost shell
                await self._end(method, defect, context)

        return guarded

    async def _end(self, method: str, defect: Exception, context: Any) -> None:
        if isinstance(defect, Failure):
            await abort(context, defect)
        self._report(method, defect)
        await abort(context, Failure(Reason.INTERNAL))


def _parsed(parse: Parse, request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError as error:
        raise Failure(Reason.MALFORMED_BODY, "the message cannot be read") from error


async def _each_parsed(parse: Parse, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(parse, request)
