"""A real Kafka that asks who everybody is: with a password, a token, a certificate, in the clear or encrypted, and with ACLs."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cells.eventlog.access import Access, Mechanism, Security
from cells.eventlog.kafka_brokers import Brokers as Asked
from cells.eventlog.kafka_login import Login
from kernel.process.clock import SystemClock
from tests.support.kafka import Brokers, laid_out
from tests.support.processes import free_port

# Kafka's numbers of resources, operations, a permission, "this name and no other", and a mechanism.
TOPIC, GROUP, BROKERS = 2, 3, 4
READ, WRITE, CREATE, DELETE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 5, 6, 8, 10
_ALLOW, _LITERAL, _SCRAM_512 = 3, 3, 2
_PASSWORDS = {"admin": "admin-secret", "cell": "cell-secret"}
_CLOCK = SystemClock()


class _ScramAnswer(Response):  # type: ignore[misc]  # the library has no types
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        (
            "results",
            CompactArray(("user", CompactString("utf-8")), ("error", Int16), ("message", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("tags", TaggedFields),
    )


class _ScramStruct(RequestStruct):  # type: ignore[misc]  # the library has no types
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ScramAnswer
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Scram(Request[_ScramStruct]):  # type: ignore[misc]  # the library has no types
    API_KEY = 51

    def __init__(self, user: str, password: str) -> None:
        salt = os.urandom(16)
        salted = pbkdf2_hmac("sha512", password.encode(), salt, 4_096)
        self._upsertions: list[Any] = [(user, _SCRAM_512, 4_096, salt, salted, {})]

    def build(self, request_struct_class: type[_ScramStruct]) -> _ScramStruct:
        return request_struct_class([], self._upsertions, {})


@dataclass(frozen=True)
class Guarded:
    """A running broker. Whoever comes in the clear to `kafka.bootstrap` is its superuser; `ports` are its other doors."""

    kafka: Brokers
    folder: Path
    ports: dict[str, int]

    def access(self, topic: str, door: Security = "SASL_PLAINTEXT", mechanism: Mechanism = "PLAIN", **fields: str) -> Access:
        """The way of user `cell`, but for `fields`."""
        given = {"user": "cell", "password_file": self.file("cell-secret"), **fields}
        return Access(f"127.0.0.1:{self.ports[door]}", topic, door, mechanism, **given)

    def file(self, text: str) -> str:
        """A file that holds `text`."""
        return self.rewrite(str(self.folder / uuid.uuid4().hex), text)

    def rewrite(self, file: str, text: str) -> str:
        """The file holds `text` from now on."""
        Path(file).write_text(text + "\n")
        return file

    @asynccontextmanager
    async def superuser(self, topic: str = "none") -> AsyncIterator[Asked]:
        """Asks brokers anything; its view is of `topic`."""
        asked = Asked(Login(Access(self.kafka.bootstrap, topic), "superuser"), _CLOCK)
        await asked.renew(asked.view)
        try:
            yield asked
        finally:
            await asked.close()

    async def allow(self, user: str, *rights: tuple[int, str, int]) -> None:
        """Each (resource, name, operation) from now on."""
        for resource, name, operation in rights:
            answer = await self._ask(CreateAclsRequest(resource, name, _LITERAL, f"User:{user}", "*", operation, _ALLOW))
            assert [code for code, *_ in answer.creation_responses] == [0]

    async def name_scram_user(self, user: str, password: str) -> None:
        """From now on `user` may come with SCRAM-SHA-512."""
        answer = await self._ask(_Scram(user, password))
        assert [code for _, code, *_ in answer.results] == [0]

    async def _ask(self, request: Any) -> Any:
        async with self.superuser() as asked:
            return await asked.ask(next(iter(asked.view.nodes.values())), request)


class Authority:
    """Signs certificates, as PEM files below `folder`: `ca.pem`, `<name>.pem` and `<name>.key`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("authority")
        signed = _certificate(self._name, self._key, self._name, self._key, True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate for `name` at 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(_named(name), key, self._name, self._key, False)
        certificate, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return certificate, secret


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    return builder.add_extension(local, critical=False).sign(signer, hashes.SHA256())


def _properties(made: Brokers, ports: dict[str, int], store: Path, trusted: Path) -> dict[str, str]:
    client, controller = made.nodes[0].ports
    doors = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    users = " ".join(f'user_{user}="{password}"' for user, password in _PASSWORDS.items())
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    return {
        "listeners": ",".join([f"CLIENT://127.0.0.1:{client}", f"CONTROLLER://127.0.0.1:{controller}", *doors.values()]),
        "advertised.listeners": ",".join([f"CLIENT://127.0.0.1:{client}", *doors.values()]),
        "listener.security.protocol.map": ",".join(["CLIENT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in doors)]),
        "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
        "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": f'{bearer} unsecuredLoginStringClaim_sub="broker";',
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
        "listener.name.ssl.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }


@contextmanager
def guarded_brokers() -> Iterator[Guarded]:
    """One broker, on a loop of its own. Doors: SASL_PLAINTEXT (PLAIN, OAUTHBEARER), SASL_SSL (SCRAM-SHA-512), SSL (certificates)."""
    loop, folder = asyncio.new_event_loop(), Path(tempfile.mkdtemp(prefix="dataflow-kafka-"))
    authority = Authority(folder)
    certificate, key = authority.sign("broker")
    store = folder / "broker-store.pem"
    store.write_text(key.read_text() + certificate.read_text())
    ports = {door: free_port() for door in ("SASL_PLAINTEXT", "SASL_SSL", "SSL")}
    settings = {"ssl.keystore.type": "PEM"}
    made = laid_out(folder, settings=settings)
    settings |= _properties(made, ports, store, authority.ca)
    authority.sign("cell")
    try:
        loop.run_until_complete(made.start_all())
        yield Guarded(made, folder, ports)
    finally:
        loop.run_until_complete(made.stop_all())
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
