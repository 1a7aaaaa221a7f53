"""What the log's topic must be: made with it, and missed in a topic that differs."""

from __future__ import annotations

import dataclasses

import pytest

from cells.eventlog.topics import MESSAGE_BYTES_MAX, Standing, Topic, dangers, differences, impossible

TOPIC = Topic("events", 8, 3, 2)
AS_MADE = Standing(8, 3, TOPIC.settings())


def changed(**settings: str) -> Standing:
    """The topic as it was made, but for these settings; underscores stand for dots."""
    return dataclasses.replace(
        AS_MADE, settings={**AS_MADE.settings, **{name.replace("_", "."): value for name, value in settings.items()}}
    )


def test_a_topic_as_it_was_made_has_no_fault() -> None:
    """Law: what we make passes what we check, replicated or not."""
    assert impossible(TOPIC) == differences(TOPIC, AS_MADE) == dangers(AS_MADE) == []
    alone = Topic("events", 1, 1, 1)
    assert differences(alone, Standing(1, 1, alone.settings())) == dangers(Standing(1, 1, alone.settings())) == []


def test_more_than_was_asked_for_is_no_difference() -> None:
    """Law: more copies, more of them in sync and larger messages may stay."""
    more = dataclasses.replace(changed(min_insync_replicas="3", max_message_bytes=str(2 * MESSAGE_BYTES_MAX)), replication=5)
    assert differences(TOPIC, more) == []


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (dataclasses.replace(AS_MADE, partitions=4), "it has 4 partitions, not 8"),
        (dataclasses.replace(AS_MADE, partitions=16), "it has 16 partitions, not 8"),
        (dataclasses.replace(AS_MADE, replication=2), "it keeps 2 copies, not 3"),
        (changed(min_insync_replicas="1"), "min.insync.replicas is 1, not 2"),
        (changed(max_message_bytes="1048588"), "max.message.bytes is 1048588"),
        (changed(cleanup_policy="compact"), "cleanup.policy is compact"),
        (changed(cleanup_policy="compact,delete"), "cleanup.policy is compact,delete"),
        (changed(retention_ms="604800000"), "retention.ms is 604800000"),
        (changed(retention_bytes="1"), "retention.bytes is 1"),
        (changed(message_timestamp_type="LogAppendTime"), "message.timestamp.type is LogAppendTime"),
        (changed(unclean_leader_election_enable="true"), "unclean.leader.election.enable is true"),
        (dataclasses.replace(AS_MADE, settings={}), "retention.ms is None"),
    ],
)
def test_each_difference_is_said(standing: Standing, said: str) -> None:
    """Law: a topic that differs where it matters is found out, in words that name value and wish."""
    assert any(said in difference for difference in differences(TOPIC, standing))


def test_a_replicated_topic_of_one_copy_in_sync_is_a_danger() -> None:
    """Law: replicas that need not have a record do not make it durable; without replicas there is nothing to ask for."""
    assert any("one lost disk" in danger for danger in dangers(changed(min_insync_replicas="1")))
    assert not dangers(dataclasses.replace(changed(min_insync_replicas="1", flush_messages="1"), replication=1))


@pytest.mark.parametrize("flush", ["9223372036854775807", "2"])
def test_a_topic_of_one_copy_that_is_not_flushed_is_a_danger(flush: str) -> None:
    """Law: what one broker acknowledges from its memory is lost with its power; of several copies another one has it."""
    assert any("flush.messages" in danger for danger in dangers(dataclasses.replace(changed(flush_messages=flush), replication=1)))
    assert not dangers(changed(flush_messages=flush))


def test_one_copy_waits_for_its_disk() -> None:
    """Law: what a single broker acknowledges is on its disk; several brokers stand for each other's."""
    assert Topic("events", 1, 1, 1).settings()["flush.messages"] == "1"
    assert "flush.messages" not in TOPIC.settings()


@pytest.mark.parametrize(
    "topic",
    [
        dataclasses.replace(TOPIC, name=""),
        dataclasses.replace(TOPIC, name=".."),
        dataclasses.replace(TOPIC, name="two words"),
        dataclasses.replace(TOPIC, name="x" * 250),
        dataclasses.replace(TOPIC, partitions=0),
        dataclasses.replace(TOPIC, min_in_sync=4),
        dataclasses.replace(TOPIC, min_in_sync=0),
        dataclasses.replace(TOPIC, replication=0),
    ],
)
def test_what_cannot_be_made_is_refused_before_anybody_is_asked(topic: Topic) -> None:
    """Law: each wish that Kafka could not fulfil is named."""
    assert impossible(topic)
