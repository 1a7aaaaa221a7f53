"""What a node of Kafka is told and asked, without one."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cli.errors import Unable
from cli.local import binaries, probe
from cli.local.kafka import Kafka, Ports

ALONE = (Ports(1, 2),)
THREE = (Ports(1, 2), Ports(3, 4), Ports(5, 6))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that says this to everybody."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def metadata(name: str, *nodes: int) -> bytes:
    """A Metadata answer, version 2, of a Kafka `name` with these nodes; every second one tells its rack."""
    body = struct.pack(">ii", 0, len(nodes))
    for node in nodes:
        rack = struct.pack(">h4s", 4, b"rack") if node % 2 else struct.pack(">h", -1)
        body += struct.pack(">ih9si", node, 9, b"127.0.0.1", 9092) + rack
    body += struct.pack(">h", len(name)) + name.encode() + struct.pack(">ii", 1, 0)
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("name", ["min.insync.replicas", "unclean.leader.election.enable", "log.flush.interval.messages"])
def test_less_cannot_be_promised(tmp_path: Path, name: str) -> None:
    """Law: no setting makes an acknowledged record less safe than declared."""
    with pytest.raises(Unable, match=f"{name} may not be changed"):
        Kafka(tmp_path, "x", ALONE, settings={name: "1"}).properties()


def test_what_is_acknowledged_is_on_the_disk_or_on_two_nodes(tmp_path: Path) -> None:
    """Law: a node alone waits for its disk before it answers; of three, two must have a record. Nobody leads who misses one."""
    alone, three = Kafka(tmp_path, "x", ALONE).properties(), Kafka(tmp_path, "x", THREE, 3).properties()
    assert (alone["default.replication.factor"], alone["min.insync.replicas"], alone["log.flush.interval.messages"]) == ("1", "1", "1")
    assert (three["default.replication.factor"], three["min.insync.replicas"]) == ("3", "2")
    for properties in (alone, three):
        assert properties["unclean.leader.election.enable"] == properties["auto.create.topics.enable"] == "false"
    assert three["listeners"] == "CLIENT://127.0.0.1:5,CONTROLLER://127.0.0.1:6"
    assert three["controller.quorum.voters"] == "1@127.0.0.1:2,2@127.0.0.1:4,3@127.0.0.1:6"


def test_only_this_machine_reaches_a_node(tmp_path: Path) -> None:
    """Law: a node listens on the loopback interface alone: it asks nobody for a password."""
    for number in (1, 2, 3):
        listeners = Kafka(tmp_path, "x", THREE, number).properties()["listeners"]
        assert all("://127.0.0.1:" in one for one in listeners.split(","))


def test_a_name_is_one_kafka(tmp_path: Path) -> None:
    """Law: all nodes of a Kafka have one id, at every start; another name has another."""
    ids = {Kafka(tmp_path, "x", THREE, node).id for node in (1, 2, 3)}
    assert len(ids) == 1
    assert ids != {Kafka(tmp_path, "y", THREE).id}
    assert all(len(one) == 22 for one in ids)


async def test_a_node_is_ready_when_it_takes_part() -> None:
    """Law: neither another node's answer nor another Kafka's is readiness."""
    async with answering(metadata("mine", 1, 2, 3)) as port:
        assert await probe.kafka(port, "mine", 2)() is None
        assert await probe.kafka(port, "mine", 4)() == "node 4 is not among the brokers [1, 2, 3]"
        assert await probe.kafka(port, "other", 1)() == f"port {port}: another Kafka (mine) answers"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack(">i", 2) + b"xx", struct.pack(">i", -1)])
async def test_what_is_no_kafka_is_said_to_be_none(answer: bytes) -> None:
    """Law: bytes that make no sense are a live process's answer, not a silence."""
    async with answering(answer) as port:
        said = await probe.kafka(port, "mine", 1)()
    assert "does not speak Kafka" in str(said)
    assert not isinstance(said, probe.Silence)


@pytest.mark.parametrize("answer", [b"", metadata("mine", 1)[:-3]])
async def test_a_broken_connection_is_silence(answer: bytes) -> None:
    """Law: who hangs up, at once or within an answer, or does not listen, has not answered."""
    async with answering(answer) as port:
        assert isinstance(await probe.kafka(port, "mine", 1)(), probe.Silence)
    assert isinstance(await probe.kafka(port, "mine", 1)(), probe.Silence)


def test_missing_jars_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what is missing is named with the command that brings it, before anything is made."""
    monkeypatch.setattr(binaries, "KAFKA", tmp_path / "nothing")
    with pytest.raises(Unable, match="run `make kafka`"):
        Kafka(tmp_path / "made", "x", ALONE).prepare()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("says", "match"), [("", "there is no program"), ('openjdk version "11.0.2" 2019-01-15', "too old"), ("fails", "does not run")]
)
def test_a_missing_or_old_java_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, match: str) -> None:
    """Law: the message names what was found and what to install."""
    if says:
        script = "exit 1" if says == "fails" else f"echo '{says}' >&2"
        (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unable, match=rf"{match}.*install Java 17"):
        binaries.java.__wrapped__()


def test_a_new_java_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: any Java from 17 on does, however it writes its version."""
    (tmp_path / "java").write_text("#!/bin/sh\necho 'openjdk version \"21\" 2023-09-19' >&2\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.java.__wrapped__() == tmp_path / "java"
