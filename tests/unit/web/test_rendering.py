"""Pages as they are filled in: hostile names, and whoever may only read."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.admin.operations import Call
from regproxy.admin.paging import Cursors
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Login, Scope, Token, Visitor
from regproxy.cache.pins import registry_name
from regproxy.inventory.details import Details, Node
from regproxy.inventory.images import Content
from regproxy.jobs.records import Job
from regproxy.telemetry.usage.records import ClientUse, ImageUse, Refusal, TagMove
from regproxy.web.rendering import Pages
from regproxy.web.troubles import troubles
from tests.unit.web.test_troubles import CLOSED, NOW, STATUS, WELL, registry

EVIL = "\"'><script>alert(1)</script>{{7*7}}"
PAGES = Pages("1.0", lambda: NOW)


def call(scope: Scope = Scope.WRITE) -> Call[Any, Any]:
    login = Login(Token("t" * 32, scope, local=True), 0, "the-csrf-token")
    operation: Any = None
    request: Any = None
    return Call(operation, {}, None, None, Visitor(scope, "127.0.0.1", login), request, Cursors(b"k"))


def image(name: str) -> Details:
    content = Content(True, True, 1, 2, 1, 2, (EVIL,), NOW, NOW, 3, False)
    node = Node("sha256:" + "a" * 64, "layer", EVIL, EVIL, 1, held=False)
    return Details(name, "sha256:" + "b" * 64, None, content, None, node)


def overview() -> str:
    circuit = type(CLOSED)(state="open", failures=1, retry_at=NOW + 9, cause=EVIL, workers=1)
    registries = [registry(circuit, credential=EVIL)]
    reply = PAGES.page(
        *("overview", call()),
        status=STATUS,
        troubles=troubles(STATUS, registries, WELL, 2, NOW),
        saved_requests=0,
        downloads=[],
        more_downloads=0,
        registries=registries,
        name_of=registry_name,
        usage_error=EVIL,
        top_images=[ImageUse(EVIL, 443, EVIL, EVIL, 1, 1, 1, NOW)],
        top_clients=[ClientUse("principal", EVIL, 1, 1, 1, NOW)],
        moves=[TagMove(NOW, EVIL, 443, EVIL, EVIL, EVIL, EVIL)],
        refusals=[Refusal(NOW, "address", EVIL, EVIL, EVIL, 443, EVIL, EVIL, "rule", EVIL, EVIL)],
    )
    return reply.body.decode()


def every_page() -> dict[str, str]:
    job = Job("1", EVIL, EVIL, {"images": [EVIL]}, error=EVIL)
    replies = {
        "image": PAGES.page("image", call(), image=image(EVIL)),
        "job": PAGES.page("job", call(), job=job, asked=EVIL, result=EVIL),
        "jobs": PAGES.page("jobs", call(), jobs=[job], next=None, limit=100),
        "confirm": PAGES.page("confirm", call(), name=EVIL, action="pin", would=None),
        "problem": PAGES.problem(call(), Problem(404, EVIL)),
    }
    return {name: reply.body.decode() for name, reply in replies.items()} | {"overview": overview()}


@pytest.mark.parametrize("name, text", every_page().items(), ids=every_page())
def test_hostile_names(name: str, text: str) -> None:
    assert "<script>" not in text and "alert(1)" in text and "49" not in text.replace("{{7*7}}", "")
    assert "\"'>" not in text


def test_who_may_only_read_sees_no_buttons() -> None:
    job = Job("1", "warm", "x")
    for template, values in (
        ("image", {"image": image("a")}),
        ("job", {"job": job, "asked": "", "result": ""}),
    ):
        shown = {
            scope: PAGES.page(template, call(scope), **values).body.decode()
            for scope in (Scope.READ, Scope.WRITE)
        }
        assert 'class="actions"' not in shown[Scope.READ] and 'class="actions"' in shown[Scope.WRITE]
        assert "the-csrf-token" in shown[Scope.READ]  # for logging out


def test_the_problem_page_has_its_status() -> None:
    assert PAGES.problem(call(), Problem(409, "pinned")).status == 409
