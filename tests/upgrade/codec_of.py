"""A process that writes and reads records' bodies with whatever version of the code is on its path: one command a line in, one answer a
line out, as JSON. A body travels as its MessagePack in hex, which both versions have in common.

Run as a script, so that the path decides.
"""

from __future__ import annotations

import json
import sys

import msgspec

from cells.eventlog import codec
from cells.eventlog.envelope import Body


def main() -> None:
    """Until the input ends."""
    print(json.dumps(sorted(vars(codec))), flush=True)
    for line in sys.stdin:
        what, data = json.loads(line)
        if what == "encode":
            answer: object = codec.encode(msgspec.msgpack.decode(bytes.fromhex(data), type=Body)).hex()
        else:
            try:
                answer = msgspec.msgpack.encode(codec.decode(bytes.fromhex(data))).hex()
            except codec.Undecodable:
                answer = None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
