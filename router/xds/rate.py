"""How many requests a tenant may make at one edge: a token bucket for each tenant, of a size that its plan chooses among a few.

Envoy makes the buckets as tenants come, from the metadata of the route that was found; they outlive changes of the route. The listener
names the sizes alone, so that no plan changes it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from google.protobuf import struct_pb2

from kernel.ids import TenantId
from router.xds.describe import type_of
from router.xds.headers import METADATA

_TENANT: Final = "tenant"
_RATE: Final = "rate"
RATES: Final = tuple(1 << power for power in range(21))
BURST_SECONDS: Final = 2
# Of tenants that ask at about the same time, so many of each size have a bucket; with more, who asked longest ago gets a new one.
TENANTS_MAX: Final = 10_000
_UNBOUNDED: Final = 2**31


def rate_of(requests_per_second: float) -> int:
    """The smallest of RATES that is no less; the largest for what is above all."""
    power = math.ceil(math.log2(requests_per_second))
    return RATES[min(max(power, 0), len(RATES) - 1)]


def metadata(tenant: TenantId, rate: int) -> Any:
    """What a route tells `rate_limit` of its tenant."""
    told = struct_pb2.Struct()
    told.fields[_TENANT].string_value = tenant
    told.fields[_RATE].string_value = str(rate)
    return told


def rate_limit() -> dict[str, object]:
    """The filter. What has no tenant is not bounded here: the edge answers it itself."""
    whole = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": type_of(local_rate_limit_pb2.LocalRateLimit),
            "stat_prefix": "edge",
            "token_bucket": {"max_tokens": _UNBOUNDED, "tokens_per_fill": _UNBOUNDED, "fill_interval": "1s"},
            "filter_enabled": {**whole, "runtime_key": "rate_limit.enabled"},
            "filter_enforced": {**whole, "runtime_key": "rate_limit.enforced"},
            "rate_limits": [{"actions": [_action(_TENANT), _action(_RATE)]}],
            "descriptors": [_descriptor(rate) for rate in RATES],
            "max_dynamic_descriptors": TENANTS_MAX,
            "always_consume_default_token_bucket": False,
            "rate_limited_as_resource_exhausted": True,
        },
    }


def _action(key: str) -> dict[str, object]:
    where = {"key": METADATA, "path": [{"key": key}]}
    return {"metadata": {"descriptor_key": key, "metadata_key": where, "source": "ROUTE_ENTRY"}}


def _descriptor(rate: int) -> dict[str, object]:
    """Of any tenant with this rate, each with a bucket of its own."""
    bucket = {"max_tokens": rate * BURST_SECONDS, "tokens_per_fill": rate, "fill_interval": "1s"}
    return {"entries": [{"key": _TENANT}, {"key": _RATE, "value": str(rate)}], "token_bucket": bucket}
