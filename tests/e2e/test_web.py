"""The web page of a running proxy, as a browser gets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import make_image
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

IMAGE = make_image(size=200_000, seed=7)


class Browser:
    """Asks for pages as a browser does, with the cookie of a login."""

    def __init__(self, proxy: Proxy, token: str) -> None:
        self._proxy = proxy
        host, port = proxy.admin_address
        self._origin = f"http://{host}:{port}"
        self.cookie = ""
        secret = (proxy.cache_dir / "state" / token).read_text().strip()
        reply = self.post("/login", token=secret)
        assert (reply.status, reply.get("location")) == (303, "/")
        self.cookie = reply.all("set-cookie")[0].partition(";")[0]

    def ask(self, method: str, path: str, body: bytes | None = None, **more: str) -> Reply:
        headers = {"Origin": self._origin, "Sec-Fetch-Site": "same-origin"} if body is not None else {}
        headers |= {"Cookie": self.cookie} if self.cookie else {}
        with Client.connect(self._proxy.admin_address, timeout=30.0) as client:
            return client.request(method, path, headers | more, body)

    def get(self, path: str) -> str:
        reply = self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.body.decode()

    def post(self, path: str, **fields: str) -> Reply:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(fields).encode(), **kind)

    def confirm(self, action: str, name: str) -> Reply:
        """Click on Yes."""
        page = self.get(f"/confirm?{urlencode({'action': action, 'name': name})}")
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.partition("<main")[2]))
        return self.post("/actions", **fields)


class Site:
    """A registry with an image, and a proxy before it through which that was pulled."""

    def __init__(self, stack: ExitStack, place: Path, trust: Trust) -> None:
        self.registry = stack.enter_context(Registry(place / "registry", trust))
        self.registry.push("team/app", "one", IMAGE)
        self.name = f"{self.registry.authority}/team/app:one"
        self.proxy = stack.enter_context(
            Proxy(
                place / "proxy",
                {},
                registries=(self.registry.authority,),
                resolve=self.registry.resolve,
                ca=trust.path,
            )
        )


@pytest.fixture(scope="module")
def site(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("web"), trust)


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site.proxy, "admin-token")


def test_without_a_login(site: Site) -> None:
    with Client.connect(site.proxy.admin_address) as client:
        reply = client.get("/")
    assert (reply.status, reply.get("location")) == (303, "/login")


def test_the_views(site: Site, browser: Browser) -> None:
    page = browser.ask("GET", "/")
    assert page.status == 200
    assert "script-src 'self'" in page.all("content-security-policy")[0]
    assert "<script>" not in page.body.decode()
    assert "Nothing is wrong." in page.body.decode()
    assert "Nothing like that is in the cache" in browser.get("/images?name=zzz")
    assert browser.ask("GET", "/images/nobody%2Fhas:it").status == 404
    for name, kind in (("style.css", "text/css"), ("live.js", "text/javascript")):
        assert browser.ask("GET", f"/static/{name}").all("content-type")[0].startswith(kind)
    assert browser.ask("GET", "/static/..%2Fviews.py").status == 404


def test_fetching_pinning_purging(site: Site, browser: Browser) -> None:
    """Each by a question, whose answer shows."""
    assert browser.confirm("warm", site.name).get("location") == "/jobs"
    wait_until(lambda: "done" in browser.get("/jobs"), "the image is fetched")
    wait_until(lambda: site.name in browser.get("/images?name=team%2Fapp"), "it is listed")
    where = f"/images/{quote(site.name, safe='')}"
    shown = browser.get(where)
    assert IMAGE.digest in shown
    assert "not held" not in shown
    assert browser.confirm("pin", site.name).get("location") == where
    assert ">1 pinned<" in browser.get("/")
    assert browser.confirm("unpin", site.name).status == 303
    assert browser.confirm("unpin", site.name).status == 404
    assert browser.confirm("purge", site.name).get("location") == "/jobs"
    wait_until(lambda: site.name not in browser.get("/images?name=team%2Fapp"), "it is gone")


@pytest.mark.parametrize("sort", ["name", "size", "used"])
@pytest.mark.parametrize("never", ["", "on"])
def test_orders(browser: Browser, sort: str, never: str) -> None:
    assert "Images in the cache" in browser.get(f"/images?sort={sort}&never_hit={never}")


def test_another_site_can_do_nothing(site: Site, browser: Browser) -> None:
    """Neither without the token of the form, nor with it from elsewhere."""
    assert browser.post("/actions", action="purge", name=site.name).status == 403
    page = browser.get(f"/confirm?action=purge&name={quote(site.name, safe='')}")
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token is not None
    fields = urlencode({"action": "purge", "name": site.name, "csrf_token": token[1]}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    elsewhere = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert browser.ask("POST", "/actions", fields, **kind, **elsewhere).status == 403


def test_who_may_only_read(site: Site) -> None:
    browser = Browser(site.proxy, "admin-read-token")
    page = browser.get(f"/confirm?action=purge&name={quote(site.name, safe='')}")
    assert "for reading alone" in page
    assert "<form" not in page.partition("<main")[2]
    csrf = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/"))
    assert csrf is not None
    assert browser.post("/actions", action="pin", name=site.name, csrf_token=csrf[1]).status == 403


def test_names_are_text(browser: Browser) -> None:
    """What is asked for comes back escaped."""
    evil = "<script>alert(1)</script>\"'"
    for path in (f"/images?name={quote(evil)}", f"/confirm?action=pin&name={quote(evil)}"):
        page = browser.get(path)
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page
