"""Pages that explain what switching offline mode does, ask whether to, and switch it."""

from __future__ import annotations

from typing import Any

from regproxy.admin.endpoints.control import Control, OfflineSwitch
from regproxy.admin.gatekeeper import CsrfForm
from regproxy.admin.operations import Call, get, post
from regproxy.admin.replies import Problem, Reply, see_other
from regproxy.admin.visitors import Scope
from regproxy.web.asking import with_body
from regproxy.web.rendering import Pages


class OfflinePage:
    """The pages `/offline/on` and `/offline/off`."""

    def __init__(self, pages: Pages, control: Control) -> None:
        self._pages = pages
        self._control = control

    @get("/offline/{switch}", Scope.WRITE, thread=True)
    def confirm_offline(self, call: Call[None, None]) -> Reply:
        """Ask whether to switch, and say what it would do."""
        return self._pages.page("offline", call, on=_asked(call))

    @post("/offline/{switch}", Scope.WRITE, forms=True)
    async def do_offline(self, call: Call[None, CsrfForm]) -> Reply:
        """Switch, and redirect to the overview. Raises Problem 409 if the setting keeps the proxy offline."""
        await self._control.switch_offline(with_body(call, OfflineSwitch(_asked(call))))
        return see_other("/")


def _asked(call: Call[Any, Any]) -> bool:
    """Return whether a path asks to go offline. Raises Problem 404 if it is neither page."""
    switch = call.path["switch"]
    if switch not in ("on", "off"):
        raise Problem(404, "no such page; there are /offline/on and /offline/off")
    return switch == "on"
