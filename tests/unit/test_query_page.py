"""Questions are checked before anybody reads."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.storage import query
from cells.storage.query import Asked
from cells.storage.store import Cursor
from kernel.clock import DAY, HOUR, SECOND, Micros
from kernel.errors import Failure, Reason
from kernel.ids import MESSAGE_KEY_BYTES, TenantId
from kernel.limits import COUNT_BUCKETS_MAX, PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX

ACME = TenantId("acme")
NOW = Micros(1_795_000_000 * SECOND)
texts = st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=16)
instants = st.none() | st.integers(-(2**55), 2**55).map(Micros)
questions = st.builds(Asked, instants, instants, texts, texts, texts, texts, texts).filter(
    lambda asked: asked.since is None or asked.since <= (NOW if asked.until is None else asked.until)
)


DEFAULT = Asked()


def refused(asked: Asked = DEFAULT, size: int = 1, token: str = "", tenant: TenantId = ACME) -> str:
    """Why the question is refused."""
    with pytest.raises(Failure) as caught:
        query.page_of(tenant, asked, size, token, NOW)
    assert caught.value.reason is Reason.INVALID_QUESTION
    return caught.value.detail


def test_the_default_is_the_last_seven_days_and_fifty_events() -> None:
    """What was stored this instant is inside."""
    page = query.page_of(ACME, Asked(), 0, "", NOW)
    assert page.which.since == page.which.until - 7 * DAY
    assert page.which.until > NOW
    assert (page.page_size, page.after) == (PAGE_EVENTS_DEFAULT, None)


@given(
    questions,
    st.integers(-(2**60), 2**60).map(Micros),
    st.binary(min_size=MESSAGE_KEY_BYTES, max_size=MESSAGE_KEY_BYTES),
    st.dates(),
)
def test_a_token_leads_on_with_the_same_times(asked: Asked, event_at: Micros, message_key: bytes, day: date) -> None:
    """Its cursor comes back, and the range that the first page resolved, however much later the next page is asked for."""
    first = query.page_of(ACME, asked, 10, "", NOW)
    token = query.token_of(ACME, asked, first.which, Cursor(event_at, message_key, day))
    after = query.page_of(ACME, asked, 10, token, Micros(NOW + HOUR))
    assert (after.which, after.after) == (first.which, Cursor(event_at, message_key, day))


@given(questions, questions)
def test_a_token_of_another_question_is_refused(one: Asked, other: Asked) -> None:
    """Another filter or another tenant."""
    token = query.token_of(ACME, one, query.resolve(one, NOW), Cursor(NOW, bytes(MESSAGE_KEY_BYTES), date.min))
    if one != other:
        assert "another question" in refused(other, token=token)
    assert "another question" in refused(one, token=token, tenant=TenantId("globex"))


@given(st.text(max_size=60))
def test_a_damaged_token_is_refused(text: str) -> None:
    """Never an unexpected error."""
    if text:
        assert "token" in refused(token=text)


@given(st.binary(max_size=40).filter(lambda key: len(key) != MESSAGE_KEY_BYTES))
def test_a_token_with_a_key_of_another_size_is_refused(message_key: bytes) -> None:
    """No event has such a key: the token is none of ours."""
    assert "damaged" in refused(token=query.token_of(ACME, DEFAULT, query.resolve(DEFAULT, NOW), Cursor(NOW, message_key, date.min)))


@pytest.mark.parametrize(
    "asked",
    [
        Asked(since=Micros(2), until=Micros(1)),
        Asked(name="\0"),
        Asked(user_id="\ud800"),
        Asked(user_id="x" * 513),
        Asked(type="x" * 17),
    ],
)
def test_impossible_filters_are_refused(asked: Asked) -> None:
    """INVALID_QUESTION, not a database error."""
    refused(asked)


def test_pages_are_bounded() -> None:
    """1 to PAGE_EVENTS_MAX."""
    refused(size=-1)
    refused(size=PAGE_EVENTS_MAX + 1)
    assert query.page_of(ACME, Asked(), PAGE_EVENTS_MAX, "", NOW).page_size == PAGE_EVENTS_MAX


def test_counts_are_bounded() -> None:
    """`since` is required, a bucket is a minute or more, there are at most COUNT_BUCKETS_MAX of them."""
    most = Asked(since=Micros(0), until=Micros(COUNT_BUCKETS_MAX * 60 * SECOND))
    assert query.buckets_of(most, 60, NOW).since == 0
    for asked, width in (
        (Asked(), 60),
        (most, 59),
        (Asked(Micros(-1), most.until), 60),
        (Asked(Micros(0), Micros((most.until or 0) + 1)), 60),
    ):
        with pytest.raises(Failure):
            query.buckets_of(asked, width, NOW)


@pytest.mark.parametrize(("user", "anonymous"), [(None, None), ("", ""), ("a", "b"), ("x" * 600, None)])
def test_a_profile_is_asked_for_by_one_identity(user: str | None, anonymous: str | None) -> None:
    """Exactly one of the two."""
    with pytest.raises(Failure):
        query.node_of(user, anonymous)
