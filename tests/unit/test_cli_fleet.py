"""What `dataflow up` takes, and from where."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands.fleet import up
from cli.errors import Unable

SECRET = "postgresql://postgres:hunter2@127.0.0.1:5432"


def postgres_url(folder: Path, *arguments: str) -> str:
    """What the command would be given."""
    return str(up.make_context("up", ["--state", str(folder), *arguments]).params["postgres_url"])


@pytest.mark.parametrize("url", [SECRET, "postgresql://127.0.0.1:5432?user=postgres&password=hunter2"])
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, url: str) -> None:
    """Law: a secret never stands where `ps` shows it; the refusal names the variable and does not repeat the secret."""
    with pytest.raises(Unable, match="DATAFLOW_POSTGRES_URL") as raised:
        postgres_url(tmp_path, "--postgres-url", url)
    assert "hunter2" not in str(raised.value)


def test_a_password_in_the_environment_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the variable may hold a password; a URL without one may be typed, and wins."""
    typed = "postgresql://postgres@127.0.0.1:5432"
    assert postgres_url(tmp_path) == ""
    monkeypatch.setenv("DATAFLOW_POSTGRES_URL", SECRET)
    assert postgres_url(tmp_path) == SECRET
    assert postgres_url(tmp_path, "--postgres-url", typed) == typed
