"""The previous version's records and this one's in one log: in a rollout either code folds what the other appended, in the order of
docs/decisions/0013-events-stay-in-their-records.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings

from cells.eventlog import codec
from cells.eventlog.envelope import Body
from tests.unit.test_record_body import bodies
from tests.upgrade import codec_of

_EXAMPLES = 200


class Previous:
    """The process of `codec_of.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or "the previous code ended: see its words above")

    def _ask(self, what: str, data: bytes) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, data.hex()]) + "\n")
        self._process.stdin.flush()
        return self.read()

    def encode(self, body: Body) -> bytes:
        """As it writes it."""
        return bytes.fromhex(self._ask("encode", msgspec.msgpack.encode(body)))

    def decode(self, data: bytes) -> Body | None:
        """As it reads it; None when it cannot."""
        found = self._ask("decode", data)
        return None if found is None else msgspec.msgpack.decode(bytes.fromhex(found), type=Body)


@contextmanager
def running(code: Path) -> Iterator[Previous]:
    """The process over this code; it is proved to be the previous one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(code), str(code / "proto" / "gen")))}
    command = [sys.executable, codec_of.__file__]
    with subprocess.Popen(command, cwd=code, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            made = Previous(process)
            assert "encode_envelopes" not in made.read(), "this is not the previous code"
            yield made
        finally:
            process.kill()


def test_records_of_both_versions_are_read_by_either(previous: Path) -> None:
    """Law: this code reads what the previous one appended; the previous one reads what this one appends for it, and of columns it says
    that it knows them not - it never takes them for something else."""
    with running(previous) as old:

        @settings(max_examples=_EXAMPLES)
        @given(bodies)
        def law(body: Body) -> None:
            assert codec.decode(old.encode(body)) == body
            assert old.decode(codec.encode_envelopes(body)) == body
            assert old.decode(codec.encode(body)) is None

        law()
