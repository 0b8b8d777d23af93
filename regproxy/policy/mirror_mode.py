"""Find out which registry a request to the proxy itself is for, where clients use it as a mirror.

    /v2/library/app/manifests/1?ns=registry.example    containerd, dockerd with the containerd store: `ns`
    /v2/registry.example/app/manifests/1               a registry's name before the repository's; maybe
                                                       with an `ns` that says the same
    /v2/library/app/manifests/1                        dockerd's registry-mirrors: Docker Hub
    http://registry.example/v2/app/manifests/1         HTTP_PROXY, for registries that speak plain HTTP

The first three name the registry to the proxy alone. Whatever credentials come with them are for the proxy,
so none are passed on, and the registry's own are the proxy's to get. The last is a proxy request as any
other, but for TLS (RFC 9112 3.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from regproxy.config.hosts import DOCKER_HUB, DOCKER_HUB_NAMES, DOCKER_HUB_REGISTRY, OWN_HOST
from regproxy.config.settings import Config
from regproxy.core.errors import BadResponse, HeadError
from regproxy.http.basic_auth import is_basic
from regproxy.http.messages import READS, Request, parse_authority
from regproxy.http.origin import Origin
from regproxy.policy.lending import loan, trimmed, without_empty_login
from regproxy.policy.origins import intercepts
from regproxy.policy.sharing import is_neutral
from regproxy.registry.targets import Kind, parse_target

# Not `user/tags` or `user/blobs`, which are repositories' names.
_HUB_ALONE: Final = re.compile(
    r"/v2/([^/]+)(/(?:(?:manifests|blobs|referrers)/[^/]+|blobs/uploads/[^/]*|tags/list))\Z"
)
_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG, Kind.UPLOAD, Kind.BLOB_MUTABLE, Kind.PING})
_API: Final = ("/v2", "/v2/")
# What an origin may take for a path outside the repository, to which this one seems to belong.
_DOTS: Final = re.compile(r"[/\\]\.{1,2}(?:[/\\;]|\Z)")
_LINK: Final = re.compile(r"<([^<>]*)>")
# containerd 1.6 sends `ns` with pulls alone: a push to another registry must not end up at Docker Hub.
_UNNAMED: Final = (
    "a push has to name its registry: /v2/docker.io/..., or the registry's own name there"
    " (in hosts.toml by override_path), or ns"
)
_CHALLENGES: Final = frozenset({b"www-authenticate", b"proxy-authenticate"})

Headers = list[tuple[bytes, bytes]]


class Mirrored(Struct, frozen=True):
    """The registry that a request is for. `name`: how the client has called it, "" for the default one.

    `by`: whether by `ns`, as a `prefix` of the path, by `default`, or by an `absolute` URL.
    """

    origin: Origin
    by: str
    name: str = ""

    @property
    def for_proxy(self) -> bool:
        """Whether the client speaks to the proxy alone, and leaves the registry's credentials to it."""
        return self.by != "absolute"

    def here(self, path: str) -> str:
        """Return the path by which a client reaches the registry's `path` (and query) through the proxy."""
        if self.by == "prefix" and path.startswith("/v2/"):
            return f"/v2/{self.name}/{path[4:]}"
        if self.by == "ns":
            return f"{path}{'&' if '?' in path else '?'}ns={self.name}"
        return path

    def answered(self, status: int, headers: Headers, path: str) -> tuple[int, Headers]:
        """Return the registry's status and fields as the client gets them. `path`: what it was asked for.

        Its own URLs lead through the proxy. Its 401 is no question to the client, which has no credentials
        for it: 403.
        """
        if not self.for_proxy:
            return status, headers
        if status == 401:
            return 403, [field for field in headers if field[0] not in _CHALLENGES]
        return status, [(name, self._rewritten(name, value, path)) for name, value in headers]

    def _rewritten(self, name: bytes, value: bytes, path: str) -> bytes:
        text = value.decode("latin-1")
        if name == b"location":
            return self._url_here(text, path).encode("latin-1")
        if name == b"link":
            links = _LINK.sub(lambda found: f"<{self._url_here(found[1], path)}>", text)
            return links.encode("latin-1")
        return value

    def _url_here(self, url: str, path: str) -> str:
        """Return where a client finds what the registry calls `url`, in its answer for `path`.

        A client would take a reference that is relative (RFC 9110 10.2.2) for one to the proxy: to its
        default registry.
        """
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        try:
            url = urljoin(f"{self.origin.scheme}://{host}:{self.origin.port}{path}", url)
            to, parts = Origin.of(url), urlsplit(url)
        except (ValueError, BadResponse):
            return url
        usual = 443 if to.scheme == "https" else 80
        if to.host != self.origin.host or to.port not in (self.origin.port, usual):
            return url
        if not parts.path.startswith("/v2/"):
            return url
        return self.here(parts.path + (f"?{parts.query}" if parts.query else ""))


class MirrorMode:
    """The rules of one configuration for requests without CONNECT."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rules = config.mirrored

    def find(self, request: Request) -> Mirrored | str | None:
        """Return the registry that a request is for; a text: why it is not answered; None: for none."""
        if not self._rules or request.target == "*":
            return None
        path, _, query = request.path.partition("?")
        if not request.target.startswith("/"):
            return self._absolute(request, path)
        if path not in _API and not path.startswith("/v2/"):
            return None
        named = [value for name, _, value in _fields(query) if name == "ns"]
        if len(named) > 1:
            return "the query names more than one registry (ns)"
        first, slash, _ = path[4:].partition("/")
        prefixed = self._found("prefix", first) if slash and _is_host(unquote(first)) else None
        if named:
            found = self._found("ns", named[0])
            # containerd adds `ns` to a path of hosts.toml (override_path) that names the registry, too.
            return prefixed if _same_registry(found, prefixed) else found
        if prefixed is not None:
            return prefixed
        if path in _API:
            return Mirrored(Origin("https", DOCKER_HUB_REGISTRY, 443), "default")
        if request.method not in READS:
            return _UNNAMED
        return self._found("default", DOCKER_HUB)

    def request(self, request: Request, mirrored: Mirrored) -> Request:
        """Return the request as the registry gets it: by its own path, with nothing that is for the proxy."""
        path, _, query = request.path.partition("?")
        if not mirrored.for_proxy:
            return replace(request, target=request.path)
        if mirrored.by == "prefix":
            path = "/v2/" + path[4:].partition("/")[2]
        if mirrored.origin.host == DOCKER_HUB_REGISTRY:
            # Docker Hub's official images; clients that take the proxy for a registry leave the word out.
            path = _HUB_ALONE.sub(r"/v2/library/\1\2", path)
        kept = "&".join(self._fields_kept(query, mirrored))
        headers = trimmed(request).headers
        if request.method in READS:
            headers = tuple(field for field in headers if is_neutral(field[0]))
        headers = tuple(field for field in headers if field[0] != b"authorization")
        return replace(request, target=path + (f"?{kept}" if kept else ""), headers=headers)

    def _fields_kept(self, query: str, mirrored: Mirrored) -> Iterable[str]:
        """Yield the fields of a query as the registry gets them."""
        for name, text, value in _fields(query):
            if name == "from":
                source = self._source(unquote(value), mirrored)
                if source:
                    yield "from=" + quote(source, safe="")
            elif name != "ns":
                yield text

    def _source(self, said: str, mirrored: Mirrored) -> str:
        """Return the repository that a blob is to be mounted from as its registry calls it.

        "" where it is another registry's: there is nothing to mount then, and the client uploads the blob
        (OCI distribution spec, "Mounting a blob from another repository").
        """
        first, slash, rest = said.partition("/")
        if mirrored.by == "prefix" and slash and _is_host(first):
            found = self._found("prefix", first)
            if not isinstance(found, Mirrored) or found.origin != mirrored.origin:
                return ""
            said = rest
        alone = mirrored.origin.host == DOCKER_HUB_REGISTRY and said and "/" not in said
        return f"library/{said}" if alone else said

    def refusal(self, request: Request) -> str:
        """Return why a rewritten request is none that a mirror answers, "" if it is one."""
        method, path = request.method, request.path
        if parse_target(path).kind in _CONTENT and not _DOTS.search(unquote(path.partition("?")[0])):
            return ""
        if loan(method, path, pushes=True) is not None:
            return ""
        return "this path is none of a registry's for images: what a mirror answers is pulls, and pushes"

    def _absolute(self, request: Request, path: str) -> Mirrored | str | None:
        try:
            host, port = parse_authority(request.authority, 80)
        except HeadError:
            return None
        # Whether a registry is to be asked by plain HTTP is for its settings to say, not for a client.
        origin = Origin("https", host, 443 if port == 80 else port)
        if self._takes(origin) and host != OWN_HOST:
            return Mirrored(origin, "absolute", request.authority)
        if path in _API or path.startswith("/v2/"):
            return self._not_configured(request.authority)
        return None

    def _found(self, by: str, name: str) -> Mirrored | str:
        said = unquote(name)
        try:
            host, port = parse_authority(said, 443)
        except HeadError:
            return f"{name[:100]!r} is not the name of a registry (host or host:port)"
        hub = host in DOCKER_HUB_NAMES and port == 443
        origin = Origin("https", DOCKER_HUB_REGISTRY if hub else host, port)
        if self._takes(origin) or (hub and self._takes(Origin("https", DOCKER_HUB, 443))):
            return Mirrored(origin, by, name)
        return self._not_configured(said)

    def _not_configured(self, name: str) -> str:
        """Return why a registry is not mirrored. A list that is set counts in place of REGISTRIES."""
        unset = self._config.mirror_registries is None
        setting = "REGISTRIES" if unset else "REGPROXY_MIRROR_REGISTRIES"
        return f"this proxy is no mirror of {name}: name it in {setting}"

    def _takes(self, origin: Origin) -> bool:
        return intercepts(self._config, origin.host, origin.port, self._rules)


def shown_login(request: Request, mirrored: Mirrored | None) -> bytes | None:
    """Return the login that a client shows to the proxy itself, as in Proxy-Authorization; None for none.

    Authorization is for the proxy where `mirrored` says so. Only Basic logins are, as no other is asked for:
    a token is left from another registry, or made up.
    """
    shown = request.all(b"proxy-authorization")
    if not shown and mirrored is not None and mirrored.for_proxy:
        shown = [value for value in without_empty_login(request).all(b"authorization") if is_basic(value)]
    return b"\n".join(shown) if shown else None


def _same_registry(one: Mirrored | str, other: Mirrored | str | None) -> bool:
    return isinstance(one, Mirrored) and isinstance(other, Mirrored) and one.origin == other.origin


def _is_host(name: str) -> bool:
    return "." in name or ":" in name or name == "localhost"


def _fields(query: str) -> Iterable[tuple[str, str, str]]:
    """Yield the fields of a query: name, the text that was sent, value."""
    for text in query.split("&") if query else ():
        name, _, value = text.partition("=")
        yield name, text, value
