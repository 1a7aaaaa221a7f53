"""What `dataflow events` prints of what clients sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cli.commands.events import _line, _printable
from dataflow.storage.v1 import query_pb2 as pb


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_event_moves_the_cursor_or_breaks_a_line(name: str, user: str) -> None:
    """Whatever a client puts into a name or an id: one printable line."""
    line = _line(pb.StoredEvent(type="track", name=name.encode(errors="replace").decode(), user_id=user.encode(errors="replace").decode()))
    assert line.isprintable()


def test_plain_text_is_left_alone() -> None:
    """Markup included: it is text, nobody's instruction."""
    assert _printable("close [/red] Zoë 😀") == "close [/red] Zoë 😀"
    assert _printable("\x1b[31mevil") == "\ufffd[31mevil"
