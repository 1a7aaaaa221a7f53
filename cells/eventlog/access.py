"""The way to a Kafka cluster: where it is, who we are there, and which topic is the cell's event log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Security = Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]


@dataclass(frozen=True, slots=True)
class Access:
    """`bootstrap` is `host:port,host:port`. Files are paths, empty when there is none; secrets are read from them, never from here.

    `password_file` holds the user's password; for OAUTHBEARER a token, read anew at each connection since its owner renews it.
    AWS_MSK_IAM signs with the credentials that the process finds in its surroundings and needs `aws_region`. Without a `ca_file`
    the system's authorities are trusted.
    """

    bootstrap: str
    topic: str
    security: Security = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    aws_region: str = ""
