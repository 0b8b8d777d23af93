"""Addon of mitmproxy: what its page may show, what it intercepts, who may use it, how much it keeps.

It is run by mitmproxy's interpreter, which may be another one than ours: it imports nothing of ours. Its
settings are in addon.json in mitmproxy's configuration directory (`mitmweb.AddonSettings`).

Credentials are masked before a message is shown anywhere, and put back where its head is written to the wire.
Whatever else reads the message (the page, exports, saved files, replays) has the masked one. Bodies of what
is no registry path, such as tokens, are passed on without being kept.
"""

from __future__ import annotations

import json
import re
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

ctx: Any = import_module("mitmproxy.ctx")
http: Any = import_module("mitmproxy.http")
http1: Any = import_module("mitmproxy.net.http.http1")
version: Any = import_module("mitmproxy.version")

OLDEST: Final = (12, 1)  # before, the page had no password
MASKED: Final = "(masked)"
KEPT: Final = 500  # messages that the page has at most
SECRET_FIELDS: Final = ("authorization", "proxy-authorization", "cookie", "set-cookie")
URL_FIELDS: Final = ("location", "referer", "content-location", "link")
# Keys of queries that registries and token servers define; any other value may be a signature or a password.
PLAIN_KEYS: Final = frozenset(
    {"n", "last", "digest", "ns", "mount", "from", "scope", "service", "artifactType", "client_id", "tag"}
)
_QUERY: Final = re.compile(r"(?<=[?&;])([^=&;#\s<>]+)=([^&;#\s<>]+)")
_CONTENT: Final = re.compile(r"/v2/(?:.+/(?:manifests|tags|referrers|blobs)/(?!uploads/)|(?:_catalog)?$)")
_REAL: Final = "_regproxy_real"  # attribute of a message: what was masked


def masked_query(text: str) -> str:
    """Return a URL, or a field with URLs, with all values of queries masked that may be secrets."""
    return _QUERY.sub(lambda pair: pair[0] if pair[1] in PLAIN_KEYS else f"{pair[1]}={MASKED}", text)


def masked_field(name: str, value: str) -> str:
    """Return what is shown of a field; of credentials the scheme, of a cookie its name."""
    if name in URL_FIELDS:
        return masked_query(value)
    if name.endswith("authorization"):
        scheme, blank, _ = value.partition(" ")
        return f"{scheme} {MASKED}" if blank else MASKED
    return f"{value.partition('=')[0]}={MASKED}"


def mask(message: Any) -> None:
    """Mask a message; what is real is put back by `real`."""
    kept: dict[str, tuple[list[str], list[str]]] = {}
    for name in (*SECRET_FIELDS, *URL_FIELDS):
        values = message.headers.get_all(name)
        shown = [masked_field(name, value) for value in values]
        if shown != values:
            kept[name] = (values, shown)
            message.headers.set_all(name, shown)
    path = getattr(message, "path", None)
    if path is not None and (shown_path := masked_query(path)) != path:
        kept[":path"] = ([path], [shown_path])
        message.path = shown_path
    setattr(message, _REAL, kept)


def real(message: Any) -> Any:
    """Return the message as it goes to the wire; what was edited meanwhile stays as it was edited."""
    kept = getattr(message, _REAL, None)
    if not kept:
        return message
    copy = message.copy()
    for name, (values, shown) in kept.items():
        if name == ":path":
            if copy.path == shown[0]:
                copy.path = values[0]
        elif copy.headers.get_all(name) == shown:
            copy.headers.set_all(name, values)
    return copy


def put_back_on_the_wire() -> None:
    """Have the heads that mitmproxy's HTTP/1 connections write be those of `real` messages."""
    for name in ("assemble_request_head", "assemble_response_head"):
        write = getattr(http1, name)
        setattr(http1, name, lambda message, write=write: write(real(message)))


class DebugView:
    """The addon. `settings`: see `mitmweb.AddonSettings`."""

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._hosts: list[tuple[re.Pattern[str], frozenset[int]]] = []
        self._logins: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._admitted: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self._kept: deque[Any] = deque()

    def load(self, loader: Any) -> None:
        """Read the settings. An old mitmproxy ends: nothing would protect its page."""
        found = tuple(int(part) for part in version.VERSION.split(".")[:2])
        if found < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise SystemExit(f"regproxy: mitmproxy {version.VERSION} is too old: {wanted} or newer is needed")
        self._settings = json.loads((Path(ctx.options.confdir) / "addon.json").read_text())
        self._hosts = [
            (re.compile(pattern, re.IGNORECASE), frozenset(ports))
            for pattern, ports in self._settings["intercepted"]
        ]
        if not self._settings["shows_credentials"]:
            put_back_on_the_wire()

    # --- connections -------------------------------------------------------------------------------------

    def http_connect(self, flow: Any) -> None:
        """Admit a client's CONNECT, and keep the login that it shows for the proxy behind."""
        login = flow.request.headers.get("Proxy-Authorization", "")
        if self._refused(login):
            flow.response = http.Response.make(407, b"", {"Proxy-Authenticate": 'Basic realm="debug view"'})
            return
        self._admitted[flow.client_conn] = True
        self._logins[flow.client_conn] = login

    def http_connect_upstream(self, flow: Any) -> None:
        """Show the proxy behind the client's login, or the one that is configured for a parent proxy."""
        login = self._settings["parent_login"] or self._logins.get(flow.client_conn, "")
        if login:
            flow.request.headers["Proxy-Authorization"] = login

    def tls_clienthello(self, data: Any) -> None:
        """Leave alone what the proxy only tunnels: its clients don't expect our CA there."""
        address = data.context.server.address
        if address is not None and not self.intercepts(*address[:2]):
            data.ignore_connection = True

    def intercepts(self, host: str, port: int) -> bool:
        """Whether traffic to this host is opened; no ports are all of them."""
        name = host.removesuffix(".")
        return any(pattern.search(name) and (not ports or port in ports) for pattern, ports in self._hosts)

    def _refused(self, login: str) -> bool:
        wanted = self._settings["own_login"]
        return bool(wanted) and login != wanted

    # --- messages ----------------------------------------------------------------------------------------

    def requestheaders(self, flow: Any) -> None:
        """Mask a request, before the page has it."""
        request = flow.request
        if self._settings["own_login"] and flow.client_conn not in self._admitted:
            flow.kill()
            request.headers.clear()
            return
        request.stream = not _CONTENT.match(urlsplit(request.path).path)
        if not self._settings["shows_credentials"]:
            mask(request)

    def responseheaders(self, flow: Any) -> None:
        """Mask an answer. What may be secret, or is large, is passed on as it comes and not kept."""
        if not _CONTENT.match(urlsplit(flow.request.path).path):
            flow.response.stream = True
        if not self._settings["shows_credentials"]:
            mask(flow.response)

    def response(self, flow: Any) -> None:
        """Forget the oldest messages."""
        self._keep(flow)

    def error(self, flow: Any) -> None:
        """Forget the oldest messages."""
        self._keep(flow)

    def _keep(self, flow: Any) -> None:
        self._kept.append(flow)
        while len(self._kept) > KEPT:
            ctx.master.view.remove([self._kept.popleft()])


addons = [DebugView()]
