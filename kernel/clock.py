"""Time as an argument. Instants are integer microseconds since 1970-01-01T00:00Z; waits are seconds on the monotonic clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NewType, Protocol

Micros = NewType("Micros", int)

SECOND: Final = 1_000_000
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = date(1970, 1, 1)


class Clock(Protocol):
    """Where a shell reads the time; the real one is in `kernel.process.clock`, simulations bring their own."""

    def now(self) -> Micros:
        """Wall clock, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, for deadlines and durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait on this clock."""
        ...


def from_datetime(moment: datetime) -> Micros:
    """Exact microseconds; a moment without a time zone is taken as UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    delta = aware - _EPOCH
    return Micros((delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds)


def to_datetime(moment: Micros) -> datetime:
    """The aware UTC datetime. Raises OverflowError outside years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=moment)


def day_of(moment: Micros) -> date:
    """The UTC day."""
    return _EPOCH_DAY + timedelta(days=moment // DAY)


def hour_of(moment: Micros) -> Micros:
    """The start of the UTC hour."""
    return Micros(moment - moment % HOUR)


def parse_iso(text: str) -> Micros | None:
    """An ISO 8601 instant, or None when it is none or lies outside years 1 to 9999."""
    try:
        return from_datetime(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def iso(moment: Micros) -> str:
    """RFC 3339 in UTC with microseconds, e.g. 2026-11-21T13:00:00.000000Z."""
    seconds, micros = divmod(moment, SECOND)
    return f"{_to_the_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=4_096)
def _to_the_second(seconds: int) -> str:
    """Events of one moment come together: the calendar is worked out once for each second."""
    return to_datetime(Micros(seconds * SECOND)).isoformat()[: len("2026-11-21T13:00:00")]
