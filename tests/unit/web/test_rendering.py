"""Pages as they are filled in: hostile names, and whoever may only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from regproxy.admin.endpoints.activity import Download
from regproxy.admin.endpoints.inventory import ImageQuery
from regproxy.admin.endpoints.status import Offline, Status
from regproxy.admin.operations import Call
from regproxy.admin.paging import Cursors
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Login, Scope, Token, Visitor
from regproxy.cache.pins import registry_name
from regproxy.inventory.details import Details, Node
from regproxy.inventory.images import Content
from regproxy.inventory.purge import Purge
from regproxy.jobs.records import OPEN, Job, State
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


def overview(status: Status = STATUS, downloads: Sequence[Download] = (), scope: Scope = Scope.WRITE) -> str:
    circuit = type(CLOSED)(state="open", failures=1, retry_at=NOW + 9, cause=EVIL, workers=1)
    registries = [registry(circuit, credential=EVIL)]
    reply = PAGES.page(
        *("overview", call(scope)),
        status=status,
        troubles=troubles(status, registries, WELL, 2, NOW),
        saved_requests=0,
        downloads=downloads,
        more_downloads=0,
        more_registries=0,
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
        "problem": PAGES.problem(Problem(404, EVIL), "/x", call().visitor),
        "login": PAGES.problem(Problem(401, EVIL), "/login", None),
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


def test_the_switch_for_offline() -> None:
    """None where the setting has decided, and none for those who may only read."""
    for by, scope, link in (
        (None, Scope.WRITE, "/offline/on"),
        ("switch", Scope.WRITE, "/offline/off"),
        ("setting", Scope.WRITE, None),
        (None, Scope.READ, None),
    ):
        status = msgspec.structs.replace(STATUS, offline=Offline(on=by is not None, by=by))
        text = overview(status, scope=scope)
        assert ("/offline/" in text) is (link is not None)
        assert link is None or f'href="{link}"' in text


def test_the_problem_page_has_its_status() -> None:
    assert PAGES.problem(Problem(409, "pinned"), "/x", call().visitor).status == 409


def test_who_is_not_known_sees_nothing_but_the_way_in() -> None:
    anybody = Visitor(Scope.OPEN, "127.0.0.1")
    for reply in (PAGES.login(), PAGES.problem(Problem(404, "no"), "/static/x", anybody)):
        text = reply.body.decode()
        assert "/static/page.css" in text
        assert "/logout" not in text and "regproxy 1.0" not in text
    wrong = PAGES.problem(Problem(401, "no such token"), "/login", None)
    assert wrong.status == 401
    assert b"no such token" in wrong.body and b'action="/login"' in wrong.body
    # Where no token helps there is no form.
    assert b'action="/login"' not in PAGES.problem(Problem(403, "from here"), "/login", None).body


def jobs(*states: State) -> str:
    found = [Job(str(number), "warm", "x", state=each, total=9) for number, each in enumerate(states)]
    return PAGES.page("jobs", call(), jobs=found, next=None, limit=100).body.decode()


def test_what_runs_is_marked() -> None:
    """A bar is no sign of work: the overview has one for how full the cache is."""
    assert "data-busy" not in jobs("done", "failed", "cancelled", "cut")
    assert "<progress" not in jobs("done")
    under_way: tuple[State, ...] = ("queued", "running")
    assert set(under_way) == OPEN
    for state in under_way:
        assert jobs("done", state).count("data-busy") == jobs("done", state).count("<progress") == 1
        page = PAGES.page("job", call(), job=Job("1", "warm", "x", state=state, total=9), asked="", result="")
        assert b"data-busy" in page.body
    full = msgspec.structs.replace(STATUS, cache=msgspec.structs.replace(STATUS.cache, max_bytes=10))
    assert "data-busy" not in overview(full) and "<progress" in overview(full)
    download = Download(
        digest="v1",
        registry="docker.io",
        repository="a",
        bytes=1,
        total=2,
        rate=1.0,
        waiters=1,
        since=NOW,
        resumes=0,
        worker=0,
    )
    assert overview(downloads=[download]).count("data-busy") == 1


def test_a_purge_of_which_nothing_can_be_told() -> None:
    """In time for a page; it can be begun all the same."""
    would = Purge(0, 0, 0, 0, [], [], [], cancelled=True)
    text = PAGES.page("confirm", call(), name="a", action="purge", would=would).body.decode()
    assert "result will list it" in text and "Nothing would be removed" not in text
    assert '<button class="danger">Purge</button>' in text


def test_a_job_that_waits_has_a_time() -> None:
    job = Job("1", "warm", "x", created_at=NOW)
    text = PAGES.page("job", call(), job=job, asked="", result="").body.decode()
    assert "<dt>Created</dt><dd>2001-09-09" in text and "never" not in text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "No images in the cache yet."),
        ({"registry": "a.test"}, "No images match."),
        ({"repository": "a"}, "No images match."),
        ({"older_than": 60.0}, "No images match."),
    ],
)
def test_an_empty_list_says_why(asked: dict[str, Any], says: str) -> None:
    query = ImageQuery(**asked)
    reply = PAGES.page("images", call(), images=[], asked=query, link=lambda **_: "", next="")
    assert says in reply.body.decode()


def test_what_was_saved_is_of_what_the_ratio_is_of() -> None:
    counts = msgspec.structs.replace(
        STATUS.answered, requests=44, hits=17, cacheable_requests=29, hit_ratio=17 / 29
    )
    text = overview(msgspec.structs.replace(STATUS, answered=counts))
    assert "58.6" in text and "of 29 cacheable" in text
    assert "of 44" not in text
