"""`regproxy top` beside a running proxy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cache_command import environment
from tests.support.images import digest_of
from tests.support.origin import Origin, blob_answer
from tests.support.proxy import Proxy

BODY = bytes(200_000)


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def top(root: Path, admin: tuple[str, int], *options: str) -> subprocess.CompletedProcess[str]:
    """Run it with the settings of a proxy with this cache and admin port."""
    env = environment(root, REGPROXY_ADMIN_LISTEN=f"{admin[0]}:{admin[1]}")
    command = [sys.executable, "-m", "regproxy", "top", *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_a_download(
    start_origin: Callable[..., Origin],
    start_proxy: Callable[..., Proxy],
    hold: threading.Event,
) -> None:
    origin = start_origin("reg.test")
    proxy = start_proxy(origin)
    digest = digest_of(BODY)
    path = f"/v2/team/app/blobs/{digest}"
    origin.on(path, blob_answer(digest, BODY, hold=hold, hold_at=len(BODY) // 2))
    with proxy.client(origin.authority) as client:
        client.ask("GET", path)
        origin.wait_for(lambda each: each.hits[path] == 1)
        # It shows no more than it has to: somebody else may listen there.
        (proxy.cache_dir / "state" / "admin-token").unlink()
        shown = top(proxy.directory / "cache", proxy.admin_address, "--once")
        told = top(proxy.directory / "cache", proxy.admin_address, "--json")
        hold.set()
        assert client.read_reply().body == BODY
    assert (shown.returncode, told.returncode) == (0, 0), shown.stderr + told.stderr
    assert f"{digest[:19]}" in shown.stdout
    assert f"{origin.authority}/team/app" in shown.stdout
    seen: dict[str, Any] = json.loads(told.stdout)
    (download,) = seen["downloads"]
    assert (download["digest"], download["total"]) == (digest, len(BODY))
    assert set(seen) == {"status", "downloads", "clients", "registries"}


def test_no_proxy(tmp_path: Path) -> None:
    shown = top(tmp_path, ("127.0.0.1", 9))
    assert shown.returncode == 1
    assert "a running proxy makes it" in shown.stderr
    assert shown.stdout == ""
