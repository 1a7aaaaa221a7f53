"""The fixture tenants: real cases that recur in all suites."""

from __future__ import annotations

from dataclasses import dataclass, field

from gitops.fleet import EU, US
from kernel.ids import TenantId, ZoneName
from kernel.limits import Plan


@dataclass(frozen=True)
class Case:
    """A tenant and what it stands for."""

    name: TenantId
    zone: ZoneName
    stands_for: str
    plan: Plan = field(default_factory=Plan)
    dedicated: bool = False


CASES = (
    Case(TenantId("acme-retail"), US, "a retailer with Black-Friday peaks", Plan(spread=4)),
    Case(TenantId("deep-archive"), US, "a tenant with more than 10 million rows", Plan(spread=2)),
    Case(TenantId("berlin-mode"), EU, "an EU tenant"),
    Case(TenantId("clinic-north"), US, "a HIPAA tenant with a dedicated schema", dedicated=True),
    Case(TenantId("clinic-south"), US, "another HIPAA tenant with a dedicated schema", dedicated=True),
    Case(TenantId("globex-sso"), EU, "an SSO tenant"),
    Case(TenantId("tiny-quota"), EU, "a quota-bound tenant", Plan(events_per_second=5.0, burst_events=20.0)),
    Case(TenantId("live-scores"), EU, "a real-time tenant"),
)
