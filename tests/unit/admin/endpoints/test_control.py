"""The switch: the file and the state of all workers are changed together."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regproxy.admin.endpoints import control
from regproxy.admin.endpoints.control import Control, OfflineSwitch
from regproxy.cache import layout


def test_opposite_switches_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has changed the file, and not the state yet, when the other one begins."""
    written, go_on = threading.Event(), threading.Event()
    keep = control._keep

    def slow(path: Path, on: bool) -> None:
        keep(path, on)
        if on:
            written.set()
            go_on.wait(20)

    monkeypatch.setattr(control, "_keep", slow)
    states: list[bool] = []
    services: Any = SimpleNamespace(
        config=SimpleNamespace(offline=False, ca_passphrase_file=None),
        board=SimpleNamespace(set_offline=states.append),
        policy=SimpleNamespace(offline=False),
    )
    places: Any = SimpleNamespace(cache=tmp_path, ca_crt=tmp_path / "crt", ca_key=tmp_path / "key")
    nothing: Any = None

    async def switch(at: Control, on: bool) -> None:
        call: Any = SimpleNamespace(body=OfflineSwitch(on))
        await at.switch_offline(call)

    async def run() -> None:
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            first = asyncio.create_task(switch(Control(services, places, nothing, one), True))
            await asyncio.to_thread(written.wait, 20)
            second = asyncio.create_task(switch(Control(services, places, nothing, other), False))
            await asyncio.wait((second,), timeout=0.2)  # without the lock it would have ended by then
            go_on.set()
            await asyncio.gather(first, second)

    asyncio.run(run())
    assert states == [True, False]
    assert not layout.offline(tmp_path).exists()
