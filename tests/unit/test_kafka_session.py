"""What a broker's answer means for a batch: stored, again, over, too large or refused; and the numbers that keep it from being doubled."""

from __future__ import annotations

import pytest
from aiokafka.errors import kafka_errors

from cells.eventlog.kafka_session import Session, Verdict, judge, unsure


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("NotLeaderForPartitionError", Verdict.AGAIN),
        ("NotEnoughReplicasError", Verdict.AGAIN),
        ("NotEnoughReplicasAfterAppendError", Verdict.AGAIN),
        ("RequestTimedOutError", Verdict.AGAIN),
        ("UnknownTopicOrPartitionError", Verdict.AGAIN),
        ("KafkaStorageError", Verdict.AGAIN),
        ("OutOfOrderSequenceNumber", Verdict.OVER),
        ("DuplicateSequenceNumber", Verdict.OVER),
        ("InvalidProducerEpoch", Verdict.OVER),
        ("UnknownProducerId", Verdict.OVER),
        ("MessageSizeTooLargeError", Verdict.TOO_LARGE),
        ("RecordListTooLargeError", Verdict.TOO_LARGE),
        ("TopicAuthorizationFailedError", Verdict.REFUSED),
        ("InvalidTimestampError", Verdict.REFUSED),
    ],
)
def test_each_answer_has_its_verdict(name: str, verdict: Verdict) -> None:
    """Law: the numbers are those that the library gives these names."""
    [code] = [number for number, error in kafka_errors.items() if error.__name__ == name]
    assert judge(code) is verdict


def test_only_no_error_is_stored() -> None:
    """Law: of all numbers, known or not, 0 alone says that a record is durable."""
    assert [code for code in range(-1, 200) if judge(code) is Verdict.STORED] == [0]


def test_an_answer_that_leaves_doubt_says_so() -> None:
    """Law: a timeout, too few copies behind the append, and an error that nobody names may have stored the batch; a refusal has not."""
    assert all(unsure(code) for code in (-1, 7, 20, 46))
    assert not any(unsure(code) for code in (0, 6, 19, 45, 47, 10, 29))


def test_numbers_go_on_and_begin_again_behind_the_largest() -> None:
    """Law: each record has the number after the one before it, as Kafka counts: 0 follows 2147483647."""
    session = Session(1, 0)
    session.stored(3)
    assert session.number == 3
    session.number = 2**31 - 2
    session.stored(2)
    assert session.number == 0
