"""The text that `dataflow` prints to be pasted."""

from __future__ import annotations

import ast

from cli.local import snippets


def test_snippets_name_the_endpoint_and_the_key() -> None:
    """Every way of sending names the endpoint it was made for and the key; the Python parts parse."""
    text = snippets.send("http://127.0.0.1:7400", "wk_eu_x")
    parts = text.strip().split("\n\n")
    assert [part.splitlines()[0].split()[1].strip(",") for part in parts] == ["curl", "Segment's", "grpcurl", "Python"]
    for part in parts:
        assert "127.0.0.1:7400" in part
        assert "wk_eu_x" in part
    for part in (parts[1], parts[3]):
        ast.parse(part)


def test_without_a_key_snippets_read_it_from_the_environment() -> None:
    """Before a source exists the pasted text takes the key from $WRITE_KEY, in the shell and in Python."""
    text = snippets.send("http://127.0.0.1:7400")
    assert '-u "$WRITE_KEY:"' in text
    assert 'os.environ["WRITE_KEY"]' in text
    assert "$READ_KEY" in snippets.read("http://127.0.0.1:7400")
