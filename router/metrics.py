"""The metrics of the directory and of the edge agent: all of them."""

from __future__ import annotations

from typing import Final

from kernel.metrics import Metric

DIRECTORY_REVISION: Final = Metric(
    "dataflow_directory_revision",
    "gauge",
    "the zone's placement revision",
    "compare with dataflow_edge_taken_revision: a gap is an edge that lags",
)
DIRECTORY_CALLS: Final = Metric(
    "dataflow_directory_calls_total",
    "counter",
    "calls of the directory by method and outcome (OK or a reason)",
    "STORE_UNAVAILABLE: see the directory's PostgreSQL; UNKNOWN_KEY: somebody tries tokens",
    ("method", "outcome"),
)
DIRECTORY_WATCHERS: Final = Metric(
    "dataflow_directory_watchers",
    "gauge",
    "followers with an open Watch",
    "fewer than edges and cells: those serve from disk, see their logs",
)
DIRECTORY_UPDATES: Final = Metric(
    "dataflow_directory_updates_sent_total",
    "counter",
    "signed updates sent to followers, whole or change",
    "many whole ones: followers lose their journals or fall far behind",
    ("kind",),
)
CELL_DOUBTED_SECONDS: Final = Metric(
    "dataflow_directory_cell_doubted_seconds",
    "gauge",
    "for how long a majority of the zone's sites has not reached the cell",
    "above 0: see `dataflow cells list` and the runbook cell-is-lost",
    ("cell",),
)
FAILOVERS: Final = Metric(
    "dataflow_directory_failovers_total",
    "counter",
    "failovers of lost cells that nobody ordered, by outcome (OK or a reason)",
    "pages: see the directory's log for the gap, and the runbook cell-is-lost",
    ("outcome",),
)
EDGE_REVISION: Final = Metric(
    "dataflow_edge_revision",
    "gauge",
    "the revision of the table that the agent holds",
    "behind the directory's for long: see dataflow_edge_connected",
)
EDGE_TAKEN_REVISION: Final = Metric(
    "dataflow_edge_taken_revision",
    "gauge",
    "the newest revision that Envoy acknowledged whole",
    "behind dataflow_edge_revision: Envoy is down or refuses",
)
EDGE_CONNECTED: Final = Metric(
    "dataflow_edge_connected",
    "gauge",
    "1 while the agent follows its directory",
    "0: the edge serves its last good map; mend the directory",
)
EDGE_ENVOYS: Final = Metric("dataflow_edge_envoys", "gauge", "Envoys connected to the agent", "0: Envoy is down or cannot reach the agent")
EDGE_UPDATES: Final = Metric(
    "dataflow_edge_updates_total",
    "counter",
    "updates taken from the directory, whole or change",
    "none while the directory moves on: see refused",
    ("kind",),
)
EDGE_UPDATES_REFUSED: Final = Metric(
    "dataflow_edge_updates_refused_total",
    "counter",
    "updates that failed signature, order, size or consistency rules, by reason",
    "pages: the last good map serves; find who published this",
    ("reason",),
)
EDGE_UPDATES_UNKEPT: Final = Metric(
    "dataflow_edge_updates_unkept_total",
    "counter",
    "updates that serve from memory alone, since the disk did not take them",
    "free or mend the agent's disk: a restart without the directory would serve an older map",
)
EDGE_COMPILE_SECONDS: Final = Metric(
    "dataflow_edge_compile_seconds",
    "histogram",
    "from an update to a checked snapshot",
    "grows with keys per shard: raise the number of shards",
)
EDGE_XDS_ACKS: Final = Metric(
    "dataflow_edge_xds_acks_total", "counter", "responses that Envoy took, by resource type", "nothing", ("type",)
)
EDGE_XDS_NACKS: Final = Metric(
    "dataflow_edge_xds_nacks_total",
    "counter",
    "responses that Envoy refused, by resource type",
    "pages: the last good configuration serves; /status has Envoy's words",
    ("type",),
)
EDGE_XDS_SENT: Final = Metric(
    "dataflow_edge_xds_sent_bytes_total",
    "counter",
    "bytes pushed to Envoy, by resource type",
    "far above changes x shard size: something resends",
    ("type",),
)

MOVES: Final = Metric(
    "dataflow_moves_running",
    "gauge",
    "moves of tenants that are under way, those included that can still be rolled back",
    "not falling for long: see `dataflow moves list` for what each waits for",
)
MOVE_TURNS: Final = Metric(
    "dataflow_move_turns_total",
    "counter",
    "turns that moves took (router/evacuation/states.py)",
    "unfence rising: sources do not drain in time, tenants were refused in vain",
    ("turn",),
)
MOVE_FAILURES: Final = Metric(
    "dataflow_move_failures_total",
    "counter",
    "steps of moves that failed and are tried again, by reason",
    "COPY_DIFFERS pages: a copy is not what its home keeps, the move stands still; else the reason names what cannot be reached",
    ("reason",),
)
MOVE_PAUSE_SECONDS: Final = Metric(
    "dataflow_move_pause_seconds",
    "histogram",
    "for how long a move had a tenant's writes refused",
    "above 1 s: the source's processing is behind, or the tenant has very many profiles",
)

DIRECTORY_LEADS = Metric(
    "dataflow_directory_leads",
    "gauge",
    "1 while this site's directory leads its zone: it alone answers, and changes anything",
    "0 at every site of a zone for a minute: no majority of its sites is up, see the runbook directory-has-no-leader",
)
DIRECTORY_SITE_CONNECTED = Metric(
    "dataflow_directory_site_connected",
    "gauge",
    "told by the leader: 1 while another site of the zone answers it",
    "0: one more loss and nothing can be changed; see `dataflow sites list` and the runbook directory-has-no-leader",
    ("site",),
)
DIRECTORY: Final = (
    DIRECTORY_LEADS,
    DIRECTORY_SITE_CONNECTED,
    DIRECTORY_REVISION,
    DIRECTORY_CALLS,
    DIRECTORY_WATCHERS,
    DIRECTORY_UPDATES,
    MOVES,
    MOVE_TURNS,
    MOVE_FAILURES,
    MOVE_PAUSE_SECONDS,
    CELL_DOUBTED_SECONDS,
    FAILOVERS,
)
AGENT: Final = (
    EDGE_REVISION,
    EDGE_TAKEN_REVISION,
    EDGE_CONNECTED,
    EDGE_ENVOYS,
    EDGE_UPDATES,
    EDGE_UPDATES_REFUSED,
    EDGE_UPDATES_UNKEPT,
    EDGE_COMPILE_SECONDS,
    EDGE_XDS_ACKS,
    EDGE_XDS_NACKS,
    EDGE_XDS_SENT,
)
WITNESS: Final[tuple[Metric, ...]] = ()
