"""The web page of a real proxy: logins, forms, and what Chromium makes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from matplotlib.image import imread

from tests.support.admin_api import AdminApi
from tests.support.chromium import TokenGate, screenshot, shown_after
from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import MANIFEST, make_image
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

IMAGE = make_image(size=600_000, seed=77)
pytestmark = pytest.mark.skipif(
    not shutil.which("docker-registry"), reason="docker-registry is not installed"
)


class Browser:
    """What a browser does: keeps a cookie, sends forms from pages of this address."""

    def __init__(self, stack: ExitStack, proxy: Proxy, token: str) -> None:
        self._address = proxy.admin_address
        self._stack = stack
        self._host = "{}:{}".format(*proxy.admin_address)
        self._cookie = ""
        text = (proxy.cache_dir / "state" / token).read_text().strip()
        reply = self.send("/login", {"token": text})
        assert (reply.status, reply.get("Location")) == (303, "/")
        self._cookie = str(reply.get("Set-Cookie")).partition(";")[0]

    def get(self, path: str) -> Reply:
        return self._ask("GET", path, {})

    def page(self, path: str) -> str:
        reply = self.get(path)
        assert reply.status == 200, reply
        return reply.body.decode()

    def send(self, path: str, fields: dict[str, str]) -> Reply:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"http://{self._host}",
            "Sec-Fetch-Site": "same-origin",
        }
        return self._ask("POST", path, headers, urlencode(fields).encode())

    def submit(self, page: str) -> Reply:
        """Send the form of a page's main part."""
        form = re.search(r'<form method="post" action="(/(?:images|jobs|offline)/[^"]+)"', page)
        token = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert form and token, page
        return self.send(form[1], {"csrf_token": token[1]})

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Reply:
        sent = headers | {"Host": self._host} | ({"Cookie": self._cookie} if self._cookie else {})
        client = self._stack.enter_context(Client.connect(self._address, timeout=60.0))
        return client.request(method, path, sent, body)


class Site:
    """A registry with an image, and a proxy that has it."""

    def __init__(self, stack: ExitStack, place: Path, trust: Trust) -> None:
        registry = stack.enter_context(Registry(place / "registry", trust))
        registry.push("team/app", "v1", IMAGE)
        self.proxy = stack.enter_context(
            Proxy(
                place / "proxy",
                {"REGPROXY_WORKERS": "1", "ENABLE_MANIFEST_CACHE": "true"},
                registries=(registry.authority,),
                resolve=registry.resolve,
                ca=trust.path,
            )
        )
        self.name = f"{registry.authority}/team/app:v1"
        self.path = f"/images/{quote(self.name, safe='')}"
        self.api = stack.enter_context(AdminApi(self.proxy))
        self.warm()
        with self.proxy.client(registry.authority) as client:
            for _ in range(3):
                client.get("/v2/team/app/manifests/v1", [("Accept", MANIFEST)])
                for digest in IMAGE.blobs:
                    client.get(f"/v2/team/app/blobs/{digest}")

    def warm(self) -> None:
        self.ended(self.api.post("warm", {"images": [{"name": self.name}]})["id"])

    def ended(self, job: str) -> None:
        wait_until(
            lambda: self.api.get(f"jobs/{job}")["state"] not in ("queued", "running"), f"{job} has ended"
        )
        assert self.api.get(f"jobs/{job}")["state"] == "done"


@pytest.fixture(scope="module")
def site(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("web"), trust)


@pytest.fixture
def browser(stack: ExitStack, site: Site) -> Browser:
    return Browser(stack, site.proxy, "admin-token")


def test_without_a_login(site: Site) -> None:
    with Client.connect(site.proxy.admin_address) as client:
        for path in ("/", "/images", site.path, "/jobs"):
            reply = client.request("GET", path)
            assert (reply.status, reply.get("Location")) == (303, "/login")
        reply = client.request("POST", f"{site.path}/purge")
        assert (reply.status, reply.get("Location")) == (303, "/login")
        assert client.request("GET", "/static/page.css").status == 200


def test_pages(site: Site, browser: Browser) -> None:
    assert "Hit ratio" in browser.page("/")
    assert site.name in browser.page("/images?name=team")
    # By size there is what the janitor has read, a moment after it was stored.
    wait_until(lambda: site.name in browser.page("/images?name=team&sort=size"), "its size is known")
    assert "No images match." in browser.page("/images?name=nobody")
    assert IMAGE.digest in browser.page(site.path)
    assert "warm" in browser.page("/jobs")
    for path in ("/static/page.css", "/static/page.js"):
        assert browser.get(path).status == 200
    reply = browser.get("/images?sort=foo")
    assert reply.status == 400 and b"<h1>Bad Request</h1>" in reply.body
    reply = browser.get("/images/reg.test%2Fnone:1")
    assert reply.status == 404 and b"<h1>Not Found</h1>" in reply.body
    assert "script-src 'self'" in str(reply.get("Content-Security-Policy"))


def test_forms(site: Site, browser: Browser) -> None:
    """Pin, unpin, purge and warm, each after a page that asks."""
    for action, pinned in (("pin", True), ("unpin", False)):
        reply = browser.submit(browser.page(f"{site.path}/{action}"))
        assert (reply.status, reply.get("Location")) == (303, site.path)
        assert site.api.get(f"images/{quote(site.name, safe='')}")["content"]["pinned"] is pinned
    page = browser.page(f"{site.path}/purge")
    assert "<strong>1 tag</strong>" in page and site.name in page
    assert site.api.items("images") != []
    for action, left in (("purge", 0), ("warm", 1)):
        reply = browser.submit(browser.page(f"{site.path}/{action}"))
        assert reply.status == 303
        path = str(reply.get("Location"))
        site.ended(path.removeprefix("/jobs/"))
        assert "done" in browser.page(path)
        assert len(site.api.items("images")) == left
    reply = browser.get(f"{site.path}/nonsense")
    assert reply.status == 404


def test_offline(site: Site, browser: Browser, stack: ExitStack) -> None:
    """Switched by the page and back, after a page that says what it does; not by who may only read."""
    reader = Browser(stack, site.proxy, "admin-read-token")
    assert "/offline/" not in reader.page("/")
    for switch, other, said in (("on", "off", "No registry is asked"), ("off", "on", "are asked again")):
        assert reader.get(f"/offline/{switch}").status == 403
        assert browser.send(f"/offline/{switch}", {"csrf_token": "x"}).status == 403
        assert f'href="/offline/{switch}"' in browser.page("/")
        page = browser.page(f"/offline/{switch}")
        assert said in page
        reply = browser.submit(page)
        assert (reply.status, reply.get("Location")) == (303, "/")
        assert site.api.get("status")["offline"]["on"] is (switch == "on")
        assert f'href="/offline/{other}"' in browser.page("/")
    assert browser.get("/offline/maybe").status == 404


def test_a_form_needs_its_token(site: Site, browser: Browser) -> None:
    for fields in ({}, {"csrf_token": "x"}):
        reply = browser.send(f"{site.path}/purge", fields)
        assert reply.status == 403 and b"<h1>Forbidden</h1>" in reply.body
    assert len(site.api.items("images")) == 1


def test_who_may_only_read(site: Site, stack: ExitStack, browser: Browser) -> None:
    reader = Browser(stack, site.proxy, "admin-read-token")
    page = reader.page(site.path)
    assert 'class="actions"' not in page and 'class="actions"' in browser.page(site.path)
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    for action in ("pin", "unpin", "purge", "warm"):
        assert reader.get(f"{site.path}/{action}").status == 403
        assert reader.send(f"{site.path}/{action}", {"csrf_token": token[1]}).status == 403
    assert len(site.api.items("images")) == 1


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.parametrize(
    "page, size, dark",
    [
        ("/", (1100, 1300), False),
        ("/", (1100, 1300), True),
        ("/", (500, 1600), False),
        ("/images", (1100, 700), False),
        ("/images", (1100, 700), True),
        ("/images", (500, 900), False),
        ("/offline/on", (500, 900), True),
    ],
    ids=[
        "overview",
        "overview-dark",
        "overview-phone",
        "images",
        "images-dark",
        "images-phone",
        "offline-phone",
    ],
)
def test_chromium(site: Site, tmp_path: Path, page: str, size: tuple[int, int], dark: bool) -> None:
    """It is drawn without a breach of its own policy, in the colours that the browser wants."""
    token = (site.proxy.cache_dir / "state" / "admin-token").read_text().strip()
    picture = tmp_path / "page.png"
    with TokenGate(site.proxy.admin_address, token) as gate:
        said = screenshot(gate.url + page, picture, size, dark=dark)
        assert {page, "/static/page.css", "/static/page.js"} <= set(gate.asked)
        assert set(gate.asked) <= {page, "/static/page.css", "/static/page.js", "/api/v1/events"}
    assert "Content Security Policy" not in said and "Uncaught" not in said, said
    pixels = imread(picture)
    assert pixels.shape[:2] == (size[1], size[0])
    corner = "#" + "".join(f"{round(float(part) * 255):02x}" for part in pixels[-1][0][:3])
    assert corner == ("#15181a" if dark else "#fcfcfb")


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_page_without_events(site: Site, tmp_path: Path) -> None:
    """Where too many listen, say, a browser does not ask for them again: the page does, and looks itself."""
    token = (site.proxy.cache_dir / "state" / "admin-token").read_text().strip()
    with TokenGate(site.proxy.admin_address, token, refused="/api/v1/events") as gate:
        shown = shown_after(f"{gate.url}/", tmp_path / "profile", 25)
        assert gate.asked.count("/api/v1/events") >= 2
        assert 2 <= gate.asked.count("/") <= 4
    assert "Updated every 10 seconds." in shown
