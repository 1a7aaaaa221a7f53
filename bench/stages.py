"""What each stage of the hot path costs in Python: microseconds per event, one core, no network and no database.

    python -m bench.stages

The lowest of many short turns, so that what else runs on the machine matters little. `bench.bench_apply` does the same for an
apply, `bench.cell` for the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from bench.workload import RUN_CHARS, Bodies
from cells.eventlog import codec
from cells.eventlog.envelope import Body
from cells.eventlog.log import Entry, Record
from cells.ingest.admit import admit
from cells.ingest.codec_grpc import item_of
from cells.ingest.split import split_batch
from cells.processing.pipeline import fold
from cells.storage import dedup, tally, traits
from dataflow.ingest.v1 import ingest_pb2
from kernel.clock import Micros, day_of
from kernel.effects import Apply
from kernel.epoch import Claim, Epoch
from kernel.ids import CellId, SourceId, TenantId

_BATCH: Final = 100
_TURNS: Final = 400
_NOW: Final = Micros(1_800_000_000_000_000)
_TODAY: Final = day_of(_NOW)


def lowest_micros(act: Callable[[], object], events: int = _BATCH, turns: int = _TURNS) -> float:
    """Of one event."""
    best = float("inf")
    for _ in range(turns):
        began = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - began)
    return best / events * 1e6


def stages() -> Mapping[str, Callable[[], object]]:
    """Each stage over a batch of 100, fed with what the one before it makes."""
    run = "0" * RUN_CHARS
    body = Bodies("http", run, _BATCH).make(0, _NOW)
    wire = Bodies("grpc", run, _BATCH).make(0, _NOW)
    request = ingest_pb2.IngestRequest.FromString(wire)
    items = split_batch(body).items
    admitted = admit(items, lambda: "unused")
    envelopes = [envelope for _, envelope in admitted.accepted]
    assert len(envelopes) == _BATCH
    encoded = codec.encode(Body(_NOW, envelopes))
    record = Record(TenantId("acme"), SourceId("web"), CellId("here"), Epoch(1), _NOW, _BATCH, "", encoded)
    entries = [Entry(0, _NOW, record)]
    effects = fold(0, entries)
    apply = Apply(effects, Claim(CellId("here"), {TenantId("acme"): Epoch(1)}), 0, 1)
    return {
        "split the HTTP body": lambda: split_batch(body),
        "decode the gRPC request": lambda: ingest_pb2.IngestRequest.FromString(wire),
        "gRPC events as items": lambda: [item_of(event) for event in request.events],
        "admit": lambda: admit(items, lambda: "unused"),
        "encode the record": lambda: codec.encode(Body(_NOW, envelopes)),
        "decode the record": lambda: codec.decode_columns(encoded),
        "fold (decode included)": lambda: fold(0, entries),
        "tally, sift, latest traits": lambda: (tally.count(apply), dedup.sift(effects.rows, (), _TODAY), traits.latest(effects.traits)),
    }


@click.command()
def main() -> None:
    """Prints the table."""
    console, table = Console(width=100), Table(title="Python's part, us per event, batches of 100")
    table.add_column("stage")
    table.add_column("us", justify="right")
    for name, act in stages().items():
        table.add_row(name, f"{lowest_micros(act):.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
