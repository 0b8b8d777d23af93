"""DEBUG and DEBUG_HUB: pulls by skopeo through mitmweb, and what its page shows of them."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from regproxy.debug.views import CLIENT, HUB
from regproxy.debug.views import program as mitmweb_program
from tests.support.client import Client
from tests.support.fake_docker_hub import Hub
from tests.support.images import Image, make_image
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust

READY = "mitmweb takes what is for"
PASSWORD = "a password of the page"
LOGIN, SECRET = "builder", "hub-secret-7f3a"
NAMES = ("registry-1.docker.io", "auth.docker.io", "production.dockercdn.test")


def lacking() -> str:
    """Why this can't be tried here; "": it can."""
    program = mitmweb_program()
    if program is None:
        return f"no mitmproxy for Python {sys.version_info[0]}.{sys.version_info[1]}: make test-debug has one"
    if shutil.which("skopeo") is None:
        return "skopeo is not installed"
    return ""


WHY = lacking()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


class Page:
    """A page of mitmweb, by its own HTTP API."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._url = f"http://{address[0]}:{address[1]}"
        self._session = http.cookiejar.CookieJar()

    def get(self, path: str, password: str = PASSWORD) -> tuple[int, bytes]:
        """Return status and body."""
        request = urllib.request.Request(self._url + path, headers={"Authorization": f"Bearer {password}"})
        session = self._session if password == PASSWORD else http.cookiejar.CookieJar()
        cookies = urllib.request.HTTPCookieProcessor(session)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        try:
            with opener.open(request, timeout=20) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def flows(self) -> list[dict[str, Any]]:
        """Return every message that it has."""
        status, body = self.get("/flows")
        assert status == 200
        found: list[dict[str, Any]] = json.loads(body)
        return found

    def seen(self) -> list[str]:
        """Return method, host, path and status of each."""
        return [
            f"{flow['request']['method']} {flow['request']['pretty_host']}{flow['request']['path']}"
            f" {flow['response']['status_code'] if flow.get('response') else '-'}"
            for flow in self.flows()
        ]

    def everything(self) -> bytes:
        """Return all that it shows, bodies included."""
        parts = [self.get("/flows")[1], self.get("/flows/dump")[1], self.get("/options")[1]]
        for flow in self.flows():
            for part in ("request", "response"):
                parts.append(self.get(f"/flows/{flow['id']}/{part}/content.data")[1])
        return b"\n".join(parts)


def start(directory: Path, hub: Hub, trust: Trust, pages: Mapping[str, tuple[str, int]], **env: str) -> Proxy:
    """Start a proxy before a Docker Hub with its views; return once they take clients."""
    password = directory / "password"
    password.write_text(PASSWORD + "\n")
    program = mitmweb_program()
    assert program is not None
    proxy = Proxy(
        directory / "proxy",
        {
            "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
            "REGPROXY_DEBUG_PASSWORD_FILE": str(password),
            "REGPROXY_DEBUG_LISTEN": "{}:{}".format(*pages["client"]),
            "REGPROXY_DEBUG_HUB_LISTEN": "{}:{}".format(*pages["hub"]),
            "AUTH_REGISTRIES": f"auth.docker.io:{LOGIN}:{SECRET}",
            **env,
        },
        registries=hub.authorities[:2],
        resolve=hub.resolve,
        ca=trust.path,
    )
    views = [name for name in ("DEBUG", "DEBUG_HUB") if name in env]
    try:
        wait_until(lambda: proxy.log().count(READY) == len(views), "the views are ready", timeout=60)
    except BaseException:
        print(proxy.log())
        proxy.kill()
        raise
    return proxy


@pytest.fixture(scope="module")
def hub(trust: Trust) -> Iterator[Hub]:
    with Hub(trust, names=NAMES, users={LOGIN: SECRET}, private=("library/app",)) as hub:
        yield hub


class Views:
    """A proxy with both views."""

    def __init__(self, directory: Path, hub: Hub, trust: Trust) -> None:
        pages = {"client": free_address(), "hub": free_address()}
        self.client, self.hub = (Page(pages[name]) for name in ("client", "hub"))
        self.pages = pages
        self.proxy = start(directory, hub, trust, pages, DEBUG="true", DEBUG_HUB="true")


@pytest.fixture(scope="module")
def views(hub: Hub, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Views]:
    views = Views(tmp_path_factory.mktemp("views"), hub, trust)
    try:
        yield views
    finally:
        views.proxy.kill()


def pulled(views: Views, hub: Hub, tmp_path: Path, image: Image, tag: str) -> None:
    hub.put("library/app", image, tag)
    skopeo = Skopeo(tmp_path, proxy=views.proxy.url, ca=views.proxy.ca_path)
    assert skopeo.copy(f"{hub.authority}/library/app:{tag}").digest == image.digest


def test_a_pull(views: Views, hub: Hub, tmp_path: Path) -> None:
    """Both pages have its requests; the proxy's login is used, and shown by neither."""
    image = make_image(seed=9001)
    pulled(views, hub, tmp_path, image, "1")
    assert hub.counted[LOGIN] > 0
    path = "registry-1.docker.io/v2/library/app/manifests/1"
    assert f"GET {path} 200" in views.client.seen()
    assert any(each.startswith("GET auth.docker.io/token?") for each in views.hub.seen())
    assert any(path in each and each.endswith(" 200") for each in views.hub.seen())
    shown = views.client.everything() + views.hub.everything()
    assert image.manifest in shown
    assert b"Bearer (masked)" in shown and b"Basic (masked)" in shown
    for secret in (SECRET, SECRET.encode().hex()):
        assert secret.encode() not in shown
    for token in tokens(hub):
        assert token not in shown


def tokens(hub: Hub) -> list[bytes]:
    """The credentials that have reached the registry and its token server."""
    origins = (hub.registry, hub.accounts.origin)
    found = {seen.get("Authorization") or "" for origin in origins for seen in origin.requests}
    assert {each.partition(" ")[0] for each in found} >= {"Basic", "Bearer"}
    return [each.partition(" ")[2].encode() for each in found if each]


def test_what_is_tunnelled_stays_closed(views: Views, stack: ExitStack, hub: Hub) -> None:
    """A host that is not intercepted shows its own certificate to the client, if it is reached."""
    with Client.connect(views.proxy.address) as client:
        assert client.connect_to("other.test:443").status == 200
    assert not [each for each in views.client.seen() if "other.test" in each]


@pytest.mark.parametrize("password", ["", "wrong"])
def test_the_page_wants_its_password(password: str, views: Views) -> None:
    for page in (views.client, views.hub):
        assert page.get("/flows", password)[0] == 403


def test_pages_of_the_proxy_port(views: Views) -> None:
    with Client.connect(views.proxy.address) as client:
        reply = client.get("/ca.crt")
        assert (reply.status, reply.body) == (200, views.proxy.ca_pem)


def test_who_it_is_for(views: Views) -> None:
    """Docker Hub's view is the workers' alone."""
    (port,) = re.findall(rf"{READY} 127\.0\.0\.1:([0-9]+); its page is", views.proxy.log())
    with Client.connect(("127.0.0.1", int(port))) as client:
        assert client.connect_to("registry-1.docker.io:443").status == 407
    with Client.connect(("127.0.0.1", int(port))) as client:
        client.send(b"GET http://registry-1.docker.io/v2/ HTTP/1.1\r\nHost: registry-1.docker.io\r\n\r\n")
        assert client.read_end()[0] == b""  # and not what such a request would get from Docker Hub


def test_memory_with_a_large_blob(views: Views, hub: Hub, tmp_path: Path) -> None:
    """It goes through both, and neither keeps it."""
    before = {pid: peak(pid) for pid in mitmwebs(views.proxy)}
    pulled(views, hub, tmp_path, make_image(seed=9002, size=60_000_000, layers=1), "large")
    grown = {pid: peak(pid) - before[pid] for pid in before}
    assert all(each < 30_000_000 for each in grown.values()), grown


def test_one_that_dies_is_started_again(views: Views, hub: Hub, tmp_path: Path) -> None:
    for pid in mitmwebs(views.proxy):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: views.proxy.log().count(READY) == 4, "both are there again", timeout=60)
    pulled(views, hub, tmp_path, make_image(seed=9003), "2")


def test_they_end_with_the_proxy(views: Views) -> None:
    """Within the time that there is, and nothing is left of what was written for them."""
    places = [Path(argument) for pid in mitmwebs(views.proxy) for argument in confdirs(pid)]
    assert {place.name for place in places} == {CLIENT, HUB}
    assert {place.stat().st_mode & 0o777 for place in places} == {0o700}
    assert all((place / "mitmproxy-ca.pem").stat().st_mode & 0o777 == 0o600 for place in places)
    views.proxy.signal(signal.SIGTERM)
    assert views.proxy.daemon.wait(20) == 0
    assert not views.proxy.daemon.group_alive()
    assert not [place for place in places if place.parent.exists()]
    assert SECRET not in views.proxy.log() and PASSWORD not in views.proxy.log()


def confdirs(pid: int) -> list[str]:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [word.removeprefix("confdir=") for word in words if word.startswith("confdir=")]


def mitmwebs(proxy: Proxy) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command, pid = (entry / "cmdline").read_text(), int(entry.name)
            if "mitmweb" in command and "confdir=" in command and os.getpgid(pid) == proxy.daemon.pid:
                found.append(pid)
    assert len(found) == 2
    return found


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
