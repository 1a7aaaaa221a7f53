"""The OpenAPI document is the server's own: every route is in it, and the running server answers as it says."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from cells.ops import OPENAPI
from tests.support.cell import KEY, READ_KEY
from tests.support.http_side import HttpSide, Room, http_side

EXAMPLES = 12
SLUG = "acme-web"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


@pytest.fixture(scope="module")
def side() -> Iterator[HttpSide]:
    with http_side() as running:
        yield running
        assert not running.defects, running.defects


answered: defaultdict[str, Counter[int]] = defaultdict(Counter)
document = schemathesis.openapi.from_path(OPENAPI)


@document.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_the_server_answers_as_the_document_says(case: schemathesis.Case[Any], side: HttpSide) -> None:
    """Law: no request whatever, in the contract or out of it, is answered with a status, a header or a body that the document lacks."""
    key = READ_KEY if "query" in case.operation.tags else KEY
    if "slug" in case.path_parameters:
        case.path_parameters["slug"] = SLUG if len(case.path_parameters["slug"]) % 4 else case.path_parameters["slug"]
    answer = case.call_and_validate(base_url=side.url, headers={"Authorization": f"Bearer {key}"}, checks=CHECKS, timeout=10)
    answered[case.operation.label][answer.status_code] += 1


async def test_every_route_is_in_the_document_and_no_other() -> None:
    """Law: the paths and methods of the application are those of the document."""
    described = msgspec.yaml.decode(OPENAPI.read_bytes())
    told = {(path, method.upper()) for path, methods in described["paths"].items() for method in methods if method != "parameters"}
    served = {
        (re.sub(r":path\}", "}", route.path), method)
        for route in Room(HttpSide()).routes()
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert told == served


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/batch/", "/v1/nothing", "/v2/track", "/livez/x", "//v1/batch"])
def test_a_path_that_leads_nowhere_is_told_in_json(side: HttpSide, path: str) -> None:
    """Law: 404 with the code NO_ROUTE, whatever the method."""
    for method in METHODS:
        answer = requests.request(method, side.url + path, timeout=5, allow_redirects=False)
        assert (answer.status_code, answer.json()["code"], set(answer.json())) == (404, "NO_ROUTE", {"code", "message"})


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/batch", {"POST"}), ("POST", "/v1/events", {"GET", "HEAD"})])
def test_a_method_that_a_path_does_not_take_is_told_in_json(side: HttpSide, method: str, path: str, allowed: set[str]) -> None:
    """Law: 405 with the code METHOD_NOT_ALLOWED and the methods that it takes."""
    answer = requests.request(method, side.url + path, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_the_document_is_served(side: HttpSide) -> None:
    """Law: /openapi.yaml is the committed file."""
    with urllib.request.urlopen(f"{side.url}/openapi.yaml", timeout=5) as answer:  # noqa: S310  # our own server
        assert answer.read() == OPENAPI.read_bytes()
        assert json.dumps(msgspec.yaml.decode(OPENAPI.read_bytes()))


def test_every_way_of_sending_was_also_accepted(side: HttpSide) -> None:
    """Law: the examples above are not refusals alone; in a worker that ran all of them, each operation answered 200 at least once."""
    assert side.url
    sending = {label: statuses for label, statuses in answered.items() if label.startswith("POST")}
    if len(sending) == 14:
        assert not [label for label, statuses in sending.items() if not statuses[200]], answered


def test_a_contradiction_is_found(side: HttpSide) -> None:
    """Control: with another answer in the document than the server gives, the same check fails."""
    told = msgspec.yaml.decode(OPENAPI.read_bytes())
    told["components"]["responses"]["Accepted"]["content"]["application/json"]["schema"]["properties"]["success"] = {"const": False}
    case = schemathesis.openapi.from_dict(told)["/v1/track"]["POST"].Case(body={"userId": "u", "event": "E"}, media_type="application/json")
    answer = case.call(base_url=side.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    assert answer.status_code == 200
    with pytest.raises(FailureGroup):
        case.validate_response(answer, checks=CHECKS)
