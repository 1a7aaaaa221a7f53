"""What each setting means, by its field's name: `configuration.md` is made of it.

It stands here, not beside the fields, because a page about settings is read as a whole. A house test finds a field without a meaning
and a meaning without a field.
"""

from __future__ import annotations

from typing import Final

MEANINGS: Final[dict[str, str]] = {
    "access_log_percent": "how many of a hundred requests Envoy's access log tells; of those that failed it tells ten or more",
    "admin_dsn": "a superuser's PostgreSQL URL: makes roles, database and schemas",
    "apply_dsn": "PostgreSQL URL of the store, as the role that applies",
    "audit_dsn": "PostgreSQL URL of the store, as the role that appends to the audit chain",
    "bootstrap_path": "where Envoy's bootstrap is written before anything is served",
    "cell": "the cell's name, as the fleet's declaration has it",
    "cells_file": "JSON list of `{cell, region, grpc_address, http_address, weight, capacity, peer}`: the zone's cells",
    "directory_address": "`host:port` of the zone's directory",
    "directory_dsn": "PostgreSQL URL of the directory's store; its role owns the database",
    "edge_address": "Envoy's listener, a numeric host",
    "edge_admin_address": "Envoy's admin page, on loopback",
    "edge_cert_file": "PEM file of Envoy's certificate chain, read again when one in its folder is replaced by a rename",
    "edge_key_file": "PEM file of the key of `edge_cert_file`",
    "edge_name": "the edge's name, told to the directory and in its status",
    "edge_transport": "`tls`, `clear`, or `both` on one port",
    "follower_token_file": "file with the token that may follow the directory, 16 characters or more",
    "grpc_address": "`host:port` where gRPC is served",
    "headers_seconds": "how long Envoy waits for a request's head",
    "http_address": "`host:port` where HTTP is served: probes and metrics, in a cell the APIs too",
    "inflight_bytes_max": "request bytes in memory above which the cell sheds, the tenant that holds most first",
    "record_format": "how ingest writes records; `envelopes` while processing of the version before columns may still read them",
    "journal_path": "where the signed placement is kept; its reader boots from it without the directory",
    "kafka_aws_region": "AWS region that AWS_MSK_IAM signs for",
    "kafka_bootstrap": "`host:port,host:port` of the Kafka brokers to ask first; required by log_kind kafka",
    "kafka_ca_file": "PEM file with the authorities that may sign a broker's certificate; empty trusts the system's",
    "kafka_cert_file": "PEM file with the client's certificate, for mutual TLS",
    "kafka_key_file": "PEM file with the certificate's private key",
    "kafka_password_file": "file with the password of `kafka_user`; with OAUTHBEARER a token, read anew at each connection",
    "kafka_sasl_mechanism": "how the client proves who it is, when `kafka_security` begins with SASL",
    "kafka_security": "whether the way to Kafka is encrypted and authenticated",
    "kafka_topic": "the topic that is the cell's event log, one for each cell; required by log_kind kafka",
    "kafka_user": "who the client is to Kafka, with PLAIN and SCRAM",
    "log_bytes_max": "bytes of event log (of one copy) above which the cell sheds instead of filling the disk",
    "log_dsn": "PostgreSQL URL of the event log, as its own role; required by log_kind postgres",
    "log_kind": "what keeps the event log: the cell's PostgreSQL (one machine), or Kafka (a fleet)",
    "log_level": "debug, info, warning or error",
    "log_min_in_sync": "copies of a record that must be written before Kafka acknowledges it (min.insync.replicas)",
    "log_partitions": "partitions of the event log, fixed when it is first made",
    "log_replication": "copies that Kafka keeps of each record",
    "operator_token_file": "file with the token that may change the directory, 16 characters or more",
    "otlp_endpoint": "OTLP base URL that spans are exported to; empty exports nothing",
    "owner_dsn": "PostgreSQL URL of the store, as the role that owns the tables",
    "principals_file": "JSON list of `{name, role, token}`: operators and viewers of the directory by name; empty names nobody",
    "public_key_file": "file with the zone's Ed25519 public key, 32 bytes in hex",
    "query_dsn": "PostgreSQL URL of the store, as the role that reads under row-level security",
    "region": "the region that the process stands in",
    "signing_key_file": "file with the zone's Ed25519 private key, 32 bytes in hex",
    "storage_address": "`host:port` of the storage role, for a separate processing role",
    "trace_percent": "how many of a hundred requests leave spans, at the edge and in the cell; a trace id goes on whether or not",
    "xds_address": "where Envoy asks for its configuration, on loopback",
    "zone": "the residency zone that the process belongs to",
    "zones_file": "JSON object from each zone to its public URL",
}
