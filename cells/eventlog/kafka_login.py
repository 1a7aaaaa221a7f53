"""Opens connections to brokers as whoever the settings say: encrypted or not, with a password, a token, a certificate or an IAM role.

Secrets are read from their files at each connection, so that a new one is taken without a restart.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Final, NamedTuple

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaError

from cells.eventlog.access import Access

# The upper bound of one request in the library; callers bring shorter deadlines of their own.
_REQUEST_MILLIS: Final = 60_000
_IDLE_MILLIS: Final = 540_000
# AWS signs tokens for 15 minutes. One is used again for a third of that: many connections open at once when a broker comes back.
_IAM_TOKEN_SECONDS: Final = 300.0


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


class Login:
    """Who we are to Kafka. Raises ValueError, naming the setting, for an address or a file that cannot be used."""

    def __init__(self, access: Access, client: str) -> None:
        self.access = access
        self._client = client
        self._ssl = _encryption(access) if access.security.endswith("SSL") else None
        self._tokens = _tokens(access) if access.security.startswith("SASL") else None
        self.bootstrap = _addresses(access.bootstrap)
        if access.security.startswith("SASL") and access.mechanism != "AWS_MSK_IAM":
            _secret(access.password_file)

    async def connect(self, address: Address) -> AIOKafkaConnection:
        """A connection whose broker knows who we are. Raises OSError, TimeoutError, KafkaError, ValueError, NotImplementedError."""
        return await create_conn(
            address.host,
            address.port,
            client_id=self._client,
            request_timeout_ms=_REQUEST_MILLIS,
            max_idle_ms=_IDLE_MILLIS,
            security_protocol=self.access.security,
            ssl_context=self._ssl,
            sasl_mechanism="OAUTHBEARER" if self.access.mechanism == "AWS_MSK_IAM" else self.access.mechanism,
            sasl_plain_username=self.access.user,
            sasl_plain_password=self._password(),
            sasl_oauth_token_provider=self._tokens,
        )

    def _password(self) -> str:
        path = self.access.password_file
        if not path or not self.access.security.startswith("SASL") or self.access.mechanism in ("OAUTHBEARER", "AWS_MSK_IAM"):
            return ""
        return _secret(path)


class _FileTokens(AbstractTokenProvider):
    """The token that stands in the file now; its owner renews it."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> str:
        try:
            return _secret(self._path)
        except ValueError as error:
            # The library takes nothing else for a failed login, and a connection's task would end with another error.
            raise KafkaError(str(error)) from error


class _IamTokens(AbstractTokenProvider):
    """Signed with the credentials that the process finds around it: a role of its machine, of its service account, or variables."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._kept = ""
        self._until = 0.0
        self._turn = asyncio.Lock()

    async def token(self) -> str:
        async with self._turn:
            if time.monotonic() >= self._until:
                self._kept = await asyncio.to_thread(self._sign)
                self._until = time.monotonic() + _IAM_TOKEN_SECONDS
            return self._kept

    def _sign(self) -> str:
        # Here and not above: the AWS libraries take half a second and 30 MB, which only cells in AWS spend.
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        from botocore.exceptions import BotoCoreError

        try:
            token, _ = MSKAuthTokenProvider.generate_auth_token(self._region)
        except (BotoCoreError, OSError, ValueError, AttributeError) as error:
            raise KafkaError(f"AWS gives no credentials: {type(error).__name__}") from error
        return str(token)


def _tokens(access: Access) -> AbstractTokenProvider | None:
    if access.mechanism == "AWS_MSK_IAM":
        return _IamTokens(access.aws_region)
    return _FileTokens(access.password_file) if access.mechanism == "OAUTHBEARER" else None


def _addresses(bootstrap: str) -> list[Address]:
    try:
        found = [Address(host, port) for host, port, _ in collect_hosts(bootstrap, randomize=False) if host]
    except ValueError:
        found = []
    if not found or any(not 0 < address.port < 65_536 for address in found):
        raise ValueError(f"DATAFLOW_KAFKA_BOOTSTRAP: '{bootstrap}' is not a list of host:port")
    return found


def _secret(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"DATAFLOW_KAFKA_PASSWORD_FILE: {error}") from error


def _encryption(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None)
    except OSError as error:
        raise ValueError(f"DATAFLOW_KAFKA_CA_FILE: {access.ca_file}: {error}") from error
    if access.cert_file:
        try:
            context.load_cert_chain(access.cert_file, access.key_file)
        except OSError as error:
            raise ValueError(f"DATAFLOW_KAFKA_CERT_FILE, DATAFLOW_KAFKA_KEY_FILE: {error}") from error
    return context
