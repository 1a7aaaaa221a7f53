"""Requests that Kafka understands and aiokafka does not bring along, in its own terms: layouts of the protocol's documentation.

Metadata 8 says what the asker may do to the topic and to the brokers, DescribeGroups 3 what it may do to a group, DescribeLogDirs 1 how
much disk each partition takes. None of them makes a topic that is not there.
"""

from __future__ import annotations

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Int64, Schema, String

_TEXT = String("utf-8")


class _MetadataAnswer(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        ("brokers", Array(("node", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("kafka_id", _TEXT),
        ("controller", Int32),
        (
            "topics",
            Array(
                ("error", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("in_sync", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("operations", Int32),
    )


class _MetadataStruct(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataAnswer
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("may_create", Boolean),
        ("with_brokers_operations", Boolean),
        ("with_topic_operations", Boolean),
    )


class Metadata(Request[_MetadataStruct]):
    """Who the brokers are, who leads which partition of the topic, and what we may do."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        """The request; the only version known."""
        return request_struct_class([self._topic], False, True, True)


class _LogDirsAnswer(Response):
    API_KEY = 35
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        (
            "folders",
            Array(
                ("error", Int16),
                ("folder", _TEXT),
                (
                    "topics",
                    Array(
                        ("topic", _TEXT),
                        ("partitions", Array(("partition", Int32), ("bytes", Int64), ("behind", Int64), ("is_future", Boolean))),
                    ),
                ),
            ),
        ),
    )


class _LogDirsStruct(RequestStruct):
    API_KEY = 35
    API_VERSION = 1
    RESPONSE_TYPE = _LogDirsAnswer
    SCHEMA = Schema(("topics", Array(("topic", _TEXT), ("partitions", Array(Int32)))))


class LogDirs(Request[_LogDirsStruct]):
    """The disk that the asked broker's replicas of the topic's partitions take."""

    API_KEY = 35

    def __init__(self, topic: str, partitions: list[int]) -> None:
        self._topics = [(topic, partitions)]

    def build(self, request_struct_class: type[_LogDirsStruct]) -> _LogDirsStruct:
        """The request; the only version known."""
        return request_struct_class(self._topics)


class _GroupsAnswer(Response):
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        (
            "groups",
            Array(
                ("error", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("protocol_type", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    Array(("member", _TEXT), ("client", _TEXT), ("host", _TEXT), ("metadata", Bytes), ("assignment", Bytes)),
                ),
                ("operations", Int32),
            ),
        ),
    )


class _GroupsStruct(RequestStruct):
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupsAnswer
    SCHEMA = Schema(("groups", Array(_TEXT)), ("with_operations", Boolean))


class Groups(Request[_GroupsStruct]):
    """A group's state and what we may do to it."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupsStruct]) -> _GroupsStruct:
        """The request; the only version known."""
        return request_struct_class([self._group], True)
