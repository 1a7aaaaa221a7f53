"""TLS at the edge's door: which certificate, read from files that somebody else renews, and what a client may speak."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2

from router.xds.describe import type_of

_NAME: Final = "edge"
ALPN: Final = ("h2", "http/1.1")


def downstream(secret_path: str) -> dict[str, object]:
    """The transport socket of a filter chain. The certificate is what `secret` describes in the file `secret_path`."""
    named = {"name": _NAME, "sds_config": {"path_config_source": {"path": secret_path}, "resource_api_version": "V3"}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_of(tls_pb2.DownstreamTlsContext),
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": list(ALPN),
                "tls_certificate_sds_secret_configs": [named],
            },
        },
    }


def secret(certificate: Path, key: Path) -> dict[str, object]:
    """What the file `secret_path` holds, as a JSON object. Envoy reads both files again when one of their folder is replaced by a rename,
    as cert-manager's and Kubernetes' are."""
    return {
        "resources": [
            {
                "@type": type_of(secret_pb2.Secret),
                "name": _NAME,
                "tls_certificate": {
                    "certificate_chain": {"filename": str(certificate)},
                    "private_key": {"filename": str(key)},
                    "watched_directory": {"path": str(certificate.parent)},
                },
            }
        ]
    }
