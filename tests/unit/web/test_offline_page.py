"""The pages that switch offline mode."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from regproxy.admin.endpoints.control import OfflineSwitch
from regproxy.admin.operations import Call
from regproxy.admin.replies import Problem
from regproxy.web.offline_page import OfflinePage
from tests.unit.web.test_rendering import PAGES, call


def asked(switch: str) -> Call[Any, Any]:
    return replace(call(), path={"switch": switch})


def page(switched: list[Any], problem: Problem | None = None) -> OfflinePage:
    async def switch_offline(call: Call[None, OfflineSwitch]) -> None:
        if problem is not None:
            raise problem
        switched.append(call.body)

    control: Any = SimpleNamespace(switch_offline=switch_offline)
    return OfflinePage(PAGES, control)


def test_it_says_what_it_does_and_then_does_it() -> None:
    switched: list[Any] = []
    shown = page(switched)
    for switch, words in (("on", "No registry is asked any more"), ("off", "Registries are asked again")):
        text = shown.confirm_offline(asked(switch)).body.decode()
        assert words in text
        assert f'action="/offline/{switch}"' in text and "the-csrf-token" in text
    assert switched == []
    for switch in ("on", "off"):
        reply = asyncio.run(shown.do_offline(asked(switch)))
        assert (reply.status, dict(reply.headers)[b"location"]) == (303, b"/")
    assert switched == [OfflineSwitch(True), OfflineSwitch(False)]


def test_another_word() -> None:
    shown = page([])
    with pytest.raises(Problem, match="/offline/on and /offline/off"):
        shown.confirm_offline(asked("maybe"))
    with pytest.raises(Problem, match="/offline/on and /offline/off"):
        asyncio.run(shown.do_offline(asked("maybe")))


def test_the_setting_wins() -> None:
    with pytest.raises(Problem, match="that wins"):
        asyncio.run(page([], Problem(409, "that wins")).do_offline(asked("off")))
