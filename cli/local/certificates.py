"""TLS on one machine: an authority of each zone, and a certificate of each of its edges. In a fleet cert-manager does this."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS: Final = 3_650
_EDGE_DAYS: Final = 365
_RENEW_DAYS: Final = 30
_HOSTS: Final = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.IPAddress(ipaddress.ip_address("::1")))


def authority_file(zone_folder: Path) -> Path:
    """What clients of the zone's endpoint trust, PEM."""
    return zone_folder / "authority.pem"


def edge_files(folder: Path) -> tuple[Path, Path]:
    """The certificate of the edge in `folder`, and its key, PEM."""
    return folder / "edge.pem", folder / "edge.key"


def certify(zone_folder: Path, zone: str, edge: str, folder: Path) -> None:
    """Makes the zone's authority and the edge's certificate, unless they are there and last for a while."""
    trusted, trusted_key = authority_file(zone_folder), zone_folder / "authority.key"
    if not _lasts(trusted, trusted_key):
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"DataFlow zone {zone} on one machine")
        _write(trusted, trusted_key, _builder(name, key, name, _AUTHORITY_DAYS, ca=True).sign(key, hashes.SHA256()), key)
    authority = x509.load_pem_x509_certificate(trusted.read_bytes())
    signer = serialization.load_pem_private_key(trusted_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101  # we have written it
    certificate, own_key = edge_files(folder)
    if not _lasts(certificate, own_key, authority):
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(edge), key, authority.subject, _EDGE_DAYS, ca=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(_HOSTS), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        _write(certificate, own_key, builder.sign(signer, hashes.SHA256()), key)


def _lasts(path: Path, key: Path, authority: x509.Certificate | None = None) -> bool:
    """Whether a certificate is there with its key, lasts, and is the authority's."""
    if not path.exists() or not key.exists():
        return False
    held = x509.load_pem_x509_certificate(path.read_bytes())
    own = serialization.load_pem_private_key(key.read_bytes(), None)
    if own.public_key() != held.public_key():
        return False
    if authority is not None:
        try:
            held.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            return False
    return held.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, days: int, *, ca: bool) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Each by a rename; the key is ours alone to read."""
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for target, text, mode in ((key_path, secret, 0o600), (path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)):
        fresh = target.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(text)
        fresh.replace(target)
