"""Which sites a zone's directory is kept at, from the environment of a directory process or of a witness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.placement.entry import WITNESS

SITES_MIN = 3


@dataclass(frozen=True, slots=True)
class Sites:
    """`own` is this process's; the `others` have their addresses. The `founder` alone may lead a zone of which nobody has anything yet."""

    own: str
    others: Mapping[str, str]
    founder: str


def sites_of(text: str, own: str) -> Sites:
    """`site=host:port,...`, of which the first one is the founder. Raises ValueError with the reason."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, address = part.partition("=")
        host, _, port = address.rpartition(":")
        if not (name and equals and host and port.isdecimal()):
            raise ValueError(f"{part!r} is not site=host:port")
        if name in found:
            raise ValueError(f"site {name} stands there twice")
        found[name] = address
    if own not in found:
        raise ValueError(f"this site, {own or 'which has no name'}, is not among {', '.join(found) or 'none'}")
    if len(found) < SITES_MIN or WITNESS not in found:
        raise ValueError(f"at least {SITES_MIN} sites make a majority that can lose one, and one of them is the {WITNESS}")
    founder = next(iter(found))
    if founder == WITNESS:
        raise ValueError(f"the {WITNESS} keeps nothing, so it cannot be the first one")
    return Sites(own, {name: address for name, address in found.items() if name != own}, founder)
