"""Every promise of the product as typed data: `validation.md` is made of it, and nothing may be promised that has no row there.

`id` is the key by which a figure in `docs/figures/*.json` names its promise. `measured_as` are the benchmark's names of
its rows, when they differ. `proof` names the tests that hold a promise which is no number, or a part of it; empty when there is none yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Promise:
    """`target` is what must be reached; `command` is what measures or proves it, empty while nothing does."""

    id: str
    promise: str
    target: str
    command: str = ""
    proof: tuple[str, ...] = ()
    measured_as: tuple[str, ...] = ()


# What a user is promised (the mission).
MISSION: Final = (
    Promise("M-volume", "volume", "10M+ events/day as the floor; 10x without redesign", "", ()),
    Promise("M-latency", "latency, ingestion to delivery", "p99 < 500 ms", "", ()),
    Promise("M-read", "read API", "p95 < 200 ms for any read, < 100 ms for indexed reads", "", ()),
    Promise("M-availability", "availability per cell and per tenant, every region", "99.95 %; a regional outage never cascades", "", ()),
    Promise(
        "M-durability",
        "zero acknowledged events lost",
        "0 lost, 0 duplicated in a planned move; forced failover RPO <= 15 min with its gap printed; RTO <= 60 s ingestion, <= 4 h restore",
        "make demo",
        (
            "tests/simulation/test_fleet.py::test_whatever_crashes_nothing_acknowledged_is_lost_and_nothing_leaks",
            "tests/e2e/test_failures.py::test_a_cell_is_killed_in_the_middle_of_traffic",
            "tests/contracts/test_log.py::test_an_append_whose_connection_dies_fails_or_is_durable_never_both_lost_and_acknowledged",
            "tests/contracts/test_store.py::test_a_connection_killed_in_mid_apply_leaves_all_or_nothing",
        ),
    ),
    Promise(
        "M-residency",
        "no byte of a tenant is accepted, stored, logged or forwarded outside its zone",
        "0 bytes, failover included; an exhausted zone answers UNAVAILABLE",
        "make demo",
        (
            "tests/properties/test_router_properties.py::test_no_upstream_lies_out_of_the_zone",
            "tests/e2e/test_edge_contract.py::test_a_foreign_key_is_told_where_to_go",
        ),
    ),
    Promise(
        "M-isolation",
        "isolation by the database and the network, not by a WHERE clause",
        "wrong or no tenant sees nothing, whatever the query; auditable",
        "make test",
        (
            "tests/integration/test_storage_rls.py::test_partitions_are_granted_to_nobody",
            "tests/integration/test_storage_rls.py::test_every_tenant_table_forces_its_policies",
        ),
    ),
    Promise("M-deployments", "deployments", "zero downtime; canary <= 10 % of tenants, 24 h bake; rollback < 5 min; emergency <= 1 h"),
    Promise(
        "M-compatibility",
        "API compatibility",
        "12 months; breaking changes are refused by a check",
        "make test",
        ("tests/house/test_contracts.py::test_no_client_is_broken", "tests/house/test_contracts.py::test_a_removed_field_is_found"),
    ),
    Promise("M-cost", "cost", "$50K/month target, $75K hard cap at 10M events/day; cost per tenant sums to the bill"),
    Promise(
        "M-audit",
        "every data access is logged, tamper-evident",
        "kept >= 90 days",
        "make test",
        (
            "tests/unit/test_chain.py::test_an_edited_entry_is_found",
            "tests/integration/test_storage_rls.py::test_the_audit_role_only_adds",
        ),
    ),
    Promise(
        "M-quality",
        "data quality",
        "> 99 % of records valid, > 95 % complete, duplicates found; pipeline success > 99.9 %",
        "",
        ("tests/properties/test_store_dedup.py::test_each_id_is_stored_once_and_the_ledger_balances",),
    ),
    Promise("M-privacy", "privacy", "GDPR erasure and export, CCPA opt-out, consent, PII masking; encryption in transit and at rest"),
    Promise("M-analytics", "analytics", "dashboards, data sources, scheduled reports, embedding, per-plan rate limits, SSO"),
)

# What a cell of two cores does, load generator included (the numbers).
NUMBERS: Final = (
    Promise(
        "P1",
        "throughput, client -> Envoy -> durable log -> processed -> queryable",
        ">= 25,000 events/s for 10 min, batches of 100",
        "python -m bench.cell --scenario throughput",
    ),
    Promise(
        "P2", "end-to-end latency at half of P1", "p50 < 100 ms, p99 < 500 ms; so also in a climb", "python -m bench.cell --scenario half"
    ),
    Promise(
        "P3", "single-event requests, acknowledged durably", ">= 2,500 requests/s, p99 < 100 ms", "python -m bench.cell --scenario single"
    ),
    Promise(
        "P4", "read API with 1M -> 10M events resident", "p95 < 20 ms indexed, < 100 ms hourly aggregates; 10x the data < 1.5x the p95"
    ),
    Promise(
        "P5",
        "router",
        "+ < 0.6 ms p50 over plain Envoy; edge < 2 ms p50, < 8 ms p99; a re-pin live in < 50 ms; 100,000 tenants",
        "python -m bench.edge",
    ),
    Promise(
        "P6",
        "a region is killed, in zone",
        "< 0.1 % of requests fail, no gap > 1 s; processing at the peer in < 10 s; 0 lost in the end",
        "python -m bench.failover --times 3",
        (
            "tests/e2e/test_failover.py::test_a_region_is_lost_failed_over_and_comes_back",
            "tests/integration/test_edge_handoff.py::test_a_killed_cells_requests_go_to_its_peer_and_come_home_again",
        ),
    ),
    Promise(
        "P7",
        "planned move of a tenant",
        "write pause < 1 s; 0 lost, 0 duplicated, order kept",
        "python -m bench.moves",
        (
            "tests/e2e/test_moves.py::test_ten_tenants_move_under_load",
            "tests/simulation/test_fleet.py::test_whatever_crashes_nothing_acknowledged_is_lost_and_nothing_leaks",
        ),
    ),
    Promise("P8", "a neighbour sends 50x its quota", "the victim's p99 rises by < 20 %", "python -m bench.cell --scenario noisy"),
    Promise(
        "P9",
        "growth",
        "CPU per million events <= +10 % from 2,500 to 25,000 events/s; cost per million at 10x <= half",
        "python -m bench.cell --scenario growth",
    ),
    Promise("P10", "start", "`make demo` to a verdict in < 3 min, download time aside; a cell restarts in < 5 s", "make demo"),
)

# What a cell does when more comes than it can take, or less of it works than should.
PRESSED: Final = (
    Promise(
        "R1",
        "twice of P1 arrives",
        "what is accepted keeps p99 < 1 s, the rest is refused with 429 or RESOURCE_EXHAUSTED; memory < 512 MiB; normal again within 5 s",
        "python -m bench.cell --scenario overload",
    ),
    Promise(
        "R2",
        "processing is an hour behind, and catches up",
        "at twice the live rate or more; what comes meanwhile is acknowledged with p99 < 500 ms",
        "python -m bench.cell --scenario catchup",
    ),
)

# What the first step is held to; the numbers above come after it.
FIRST: Final = (
    Promise(
        "S1",
        "sustained events, client -> queryable, batches of 100",
        ">= 8,000 events/s",
        measured_as=("throughput-http", "throughput-grpc"),
    ),
    Promise("S2", "end-to-end latency at half of S1", "p99 < 500 ms", measured_as=("latency-http", "latency-grpc")),
    Promise("S3", "single-event requests, acknowledged durably", ">= 1,000 requests/s", measured_as=("single-http",)),
    Promise("S4", "`make demo` after downloads", "< 3 min", "make demo"),
    Promise("S5", "`make test`", "< 8 min", "make test"),
)

PROMISES: Final = (*MISSION, *NUMBERS, *PRESSED, *FIRST)
