"""Signing in to Kafka in AWS, without AWS: the token is one that its brokers take, and a failure is a failed login."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlsplit

import pytest
from aiokafka.errors import KafkaError

from cells.eventlog.access import Access
from cells.eventlog.kafka_login import Login

ACCESS = Access("broker:9098", "events", "SASL_SSL", "AWS_MSK_IAM", aws_region="eu-west-1")


async def test_the_token_is_a_signed_request_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: it names action, region and who signs; the secret itself is not in it; connections that open together share one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    tokens = Login(ACCESS, "cell")._tokens
    assert tokens is not None
    token = await tokens.token()
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    query = parse_qs(url.query)
    assert url.hostname == "kafka.eu-west-1.amazonaws.com"
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    assert "/eu-west-1/kafka-cluster/" in query["X-Amz-Credential"][0]
    assert "not-to-be-shown" not in url.geturl()
    assert await tokens.token() == token


async def test_without_credentials_the_login_fails_as_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: whatever the AWS libraries raise is an error of the connection, which is retried and said, never one that ends a task."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    tokens = Login(ACCESS, "cell")._tokens
    assert tokens is not None
    with pytest.raises(KafkaError, match="AWS gives no credentials"):
        await tokens.token()
