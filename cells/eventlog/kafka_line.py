"""One connection, to one broker at a time, opened when it is needed and given up at the first sign of trouble.

A broker answers the requests of a connection one after the other, so whoever may wait long (a reader, an appender) has a line of its
own. A request that nobody waits for any more would hold up the next one: its connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)

from cells.eventlog.kafka_login import Address, Login

_END_SECONDS: Final = 1.0
_WAY: Final = "see DATAFLOW_KAFKA_BOOTSTRAP and DATAFLOW_KAFKA_SECURITY"


class Lost(Exception):
    """No answer, or one that says "not now, not here": what was asked may have been done or not. Trying again may help.

    `advice` is what an operator looks at when it does not; `code` is Kafka's number of the error, 0 when the broker said nothing.
    """

    def __init__(self, what: str, advice: str = "", code: int = 0) -> None:
        super().__init__(what)
        self.advice = advice
        self.code = code


class Line:
    """See the module's docstring."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._turn = asyncio.Lock()
        self._address: Address | None = None
        self._connection: AIOKafkaConnection | None = None
        self._ended = False

    async def ask(self, address: Address, request: Any, seconds: float) -> Any:
        """The broker's answer within `seconds`, connecting and earlier requests of this line included. Raises Lost."""
        try:
            async with asyncio.timeout(seconds), self._turn:
                return await self._ask(address, request)
        except (SaslAuthenticationFailed, UnsupportedSaslMechanismError) as error:
            raise refused_login(address, str(error)) from error
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise Lost(f"{_said(address)} speaks another version: {error}", "Apache Kafka 2.4 or newer is needed") from error
        except TimeoutError as error:
            raise Lost(f"{_said(address)} does not answer", _WAY) from error
        except (KafkaError, OSError, ValueError) as error:
            raise Lost(f"{_said(address)}: {str(error) or type(error).__name__}", _WAY) from error

    async def _ask(self, address: Address, request: Any) -> Any:
        if self._ended:
            raise Lost("the log is closed")
        try:
            if self._connection is None or self._address != address or not self._connection.connected():
                self.close()
                self._connection = await self._login.connect(address)
                self._address = address
            return await self._connection.send(request)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the connection up; the next request opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def end(self) -> None:
        """Closes the connection for good, and waits a moment until the socket is closed."""
        self._ended = True
        connection, self._connection = self._connection, None
        if connection is not None and (closed := connection.close()) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await asyncio.shield(closed)


def refused_login(address: Address, why: str) -> Lost:
    """The broker does not take us for who we say that we are."""
    advice = "see DATAFLOW_KAFKA_SASL_MECHANISM, DATAFLOW_KAFKA_USER and DATAFLOW_KAFKA_PASSWORD_FILE"
    return Lost(f"{_said(address)} refuses the login: {why}", advice)


def told(code: int, what: str) -> None:
    """Raises Lost when a broker's answer about `what` holds an error."""
    if code:
        raise Lost(f"{what}: {name_of(code)}", code=code)


def name_of(code: int) -> str:
    """A word for Kafka's error number."""
    return f"{for_code(code).__name__} ({code})"


def _said(address: Address) -> str:
    return f"{address.host}:{address.port}"
