"""What a process of the fleet is, in which order processes start, and how long to wait before one is started again. Pure."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.errors import Unable
from cli.local.probe import Probe
from cli.local.process import User

QUICK_DEATH_SECONDS: Final = 5.0
QUICK_DEATHS_MAX: Final = 6
_DELAY_SECONDS: Final = 0.1
_DELAY_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True)
class Spec:
    """One process. It is first started once all of `after` are ready; later deaths of those do not touch it.

    `prepare` runs before every start, `finish` after every time it became ready and before that is told. `death_signal` is what it
    gets when the supervisor itself is killed. A process that was ready and then gives no answer at all for `silence_seconds` is killed
    and started again, unless it is held.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    ready: Probe
    port: int
    after: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    death_signal: signal.Signals = signal.SIGKILL
    silence_seconds: float = 30.0
    user: User | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    finish: Callable[[], Awaitable[None]] | None = None


def waves(specs: Sequence[Spec]) -> list[list[Spec]]:
    """The processes in groups: each comes after everything that it depends on. Raises Unable: unknown name, duplicate, cycle."""
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise Unable("two processes of the fleet have one name", "this is a defect of the layout")
    for spec in specs:
        for other in spec.after:
            if other not in names:
                raise Unable(f"{spec.name} starts after {other}, which does not exist", "this is a defect of the layout")
    found: list[list[Spec]] = []
    done: set[str] = set()
    rest = list(specs)
    while rest:
        wave = [spec for spec in rest if done.issuperset(spec.after)]
        if not wave:
            raise Unable(f"{rest[0].name} waits for itself", "this is a defect of the layout")
        found.append(wave)
        done.update(spec.name for spec in wave)
        rest = [spec for spec in rest if spec.name not in done]
    return found


def count_death(quick_deaths: int, lived_seconds: float, asked: bool, blameless: bool) -> int:
    """Deaths in a row that came too soon, after one more. `asked`: we signalled it. `blameless`: what it needs was away, so that it is
    tried again for ever, though ever more slowly."""
    if asked or lived_seconds >= QUICK_DEATH_SECONDS:
        return 0
    return min(quick_deaths + 1, QUICK_DEATHS_MAX - 1) if blameless else quick_deaths + 1


def restart_delay(quick_deaths: int) -> float | None:
    """Seconds to wait before the next start, after so many deaths in a row that came within QUICK_DEATH_SECONDS; None: give up."""
    if quick_deaths >= QUICK_DEATHS_MAX:
        return None
    return min(_DELAY_SECONDS * 2.0**quick_deaths, _DELAY_SECONDS_MAX)
