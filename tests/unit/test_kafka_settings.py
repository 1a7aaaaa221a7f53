"""The way to Kafka as settings: what is missing or out of place is named, all of it, before anything is opened."""

from __future__ import annotations

import pytest

from cells.config import ProvisionConfig, kafka_access
from cells.eventlog.access import Access
from kernel.process import settings

PLACE = {"log_kind": "kafka", "kafka_bootstrap": "one:9092,two:9092", "kafka_topic": "events"}
SCRAM = {**PLACE, "kafka_security": "SASL_SSL", "kafka_user": "cell", "kafka_password_file": "secret"}


def loaded(**fields: str) -> ProvisionConfig:
    """The settings of a process whose environment holds these fields."""
    dsns = ("admin_dsn", "owner_dsn", "apply_dsn", "query_dsn", "audit_dsn")
    environment = {**dict.fromkeys(dsns, "postgresql://x:y@localhost/z"), **fields}
    return settings.load(ProvisionConfig, {f"DATAFLOW_{name.upper()}": value for name, value in environment.items()})


def test_the_log_stays_in_postgres_unless_told() -> None:
    """Law: nobody gets Kafka by default."""
    assert loaded().log_kind == "postgres"


def test_the_way_to_kafka_is_what_the_settings_say() -> None:
    """Law: every field arrives."""
    assert kafka_access(loaded(**PLACE)) == Access("one:9092,two:9092", "events")
    found = kafka_access(loaded(**SCRAM, kafka_ca_file="ca", kafka_cert_file="cert", kafka_key_file="key"))
    assert found == Access("one:9092,two:9092", "events", "SASL_SSL", "SCRAM-SHA-512", "cell", "secret", "ca", "cert", "key")
    iam = {**PLACE, "kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "AWS_MSK_IAM", "kafka_aws_region": "eu-west-1"}
    assert kafka_access(loaded(**iam)).aws_region == "eu-west-1"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"log_kind": "kafka"}, {"KAFKA_BOOTSTRAP", "KAFKA_TOPIC"}),
        ({**PLACE, "kafka_security": "SASL_SSL"}, {"KAFKA_USER", "KAFKA_PASSWORD_FILE"}),
        ({**PLACE, "kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}, {"KAFKA_PASSWORD_FILE"}),
        ({**PLACE, "kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "AWS_MSK_IAM"}, {"KAFKA_AWS_REGION"}),
        ({**SCRAM, "kafka_security": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "AWS_MSK_IAM"}, {"KAFKA_AWS_REGION", "KAFKA_SECURITY"}),
        ({**SCRAM, "kafka_security": "SASL_PLAINTEXT", "kafka_ca_file": "ca"}, {"KAFKA_SECURITY"}),
        ({**SCRAM, "kafka_cert_file": "cert"}, {"KAFKA_KEY_FILE"}),
    ],
)
def test_what_is_missing_or_out_of_place_is_named(fields: dict[str, str], named: set[str]) -> None:
    """Law: every variable at fault, and no other, each on a line of its own."""
    with pytest.raises(settings.BadSettings) as caught:
        kafka_access(loaded(**fields))
    assert {problem.split()[0].rstrip(":") for problem in caught.value.problems} == {f"DATAFLOW_{name}" for name in named}


def test_an_unknown_word_is_refused_when_the_settings_are_read() -> None:
    """Law: kinds, securities and mechanisms are closed vocabularies."""
    for field in ("log_kind", "kafka_security", "kafka_sasl_mechanism"):
        with pytest.raises(settings.BadSettings, match=field.upper()):
            loaded(**{field: "telepathy"})
