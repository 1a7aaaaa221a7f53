"""The certificates of a fleet on one machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cli.local import certificates


def _edge(zone: Path, name: str) -> Path:
    folder = zone / name
    folder.mkdir(parents=True, exist_ok=True)
    certificates.certify(zone, zone.name, name, folder)
    return folder


def _trusts(zone: Path, edge: Path) -> bool:
    """Whether a client that trusts the zone's authority believes the edge that it is 127.0.0.1."""
    trusted = x509.load_pem_x509_certificate(certificates.authority_file(zone).read_bytes())
    shown = x509.load_pem_x509_certificate(certificates.edge_files(edge)[0].read_bytes())
    policy = PolicyBuilder().store(Store([trusted])).time(datetime.datetime.now(datetime.UTC).replace(tzinfo=None))
    try:
        policy.build_server_verifier(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))).verify(shown, [])
    except VerificationError:
        return False
    return True


def test_an_edge_is_believed_by_who_trusts_its_zone_and_by_nobody_else(tmp_path: Path) -> None:
    """Law: each zone has an authority of its own; keys are their owner's to read."""
    eu, us = _edge(tmp_path / "eu", "eu-west-1"), _edge(tmp_path / "us", "us-west-2")
    assert _trusts(tmp_path / "eu", eu)
    assert _trusts(tmp_path / "us", us)
    assert not _trusts(tmp_path / "us", eu)
    for key in (certificates.edge_files(eu)[1], tmp_path / "eu" / "authority.key"):
        assert key.stat().st_mode & 0o777 == 0o600


def test_a_start_keeps_what_lasts_and_renews_what_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same files at each start; a certificate whose time is nearly over, or that lost its key, is made anew by the same
    authority; with a new authority edges get new certificates."""
    zone = tmp_path / "eu"
    monkeypatch.setattr(certificates, "_EDGE_DAYS", 20)
    edge = _edge(zone, "eu-west-1")
    certificate, key = certificates.edge_files(edge)
    held, trusted = certificate.read_bytes(), certificates.authority_file(zone).read_bytes()
    monkeypatch.undo()
    _edge(zone, "eu-west-1")
    renewed = certificate.read_bytes()
    assert renewed != held
    assert _trusts(zone, edge)
    _edge(zone, "eu-west-1")
    assert certificate.read_bytes() == renewed
    key.unlink()
    _edge(zone, "eu-west-1")
    assert certificate.read_bytes() != renewed
    key.write_bytes((zone / "authority.key").read_bytes())
    _edge(zone, "eu-west-1")
    assert key.read_bytes() != (zone / "authority.key").read_bytes()
    assert certificates.authority_file(zone).read_bytes() == trusted
    certificates.authority_file(zone).unlink()
    _edge(zone, "eu-west-1")
    assert certificates.authority_file(zone).read_bytes() != trusted
    assert _trusts(zone, edge)
