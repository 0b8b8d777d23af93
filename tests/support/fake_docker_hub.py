"""Docker Hub as its clients meet it: a registry, a token server and a CDN under three names, and pull limits.

    with Hub(trust) as hub:
        hub.put("library/alpine", image, "3.20")
        ...
        assert hub.counted["203.0.113.7"] == 1

Tokens are those of fake_docker_hub_accounts.py: one that is over, or without the access that is needed, gets
a 401 that says which. A blob is a 307 to a URL of fake_docker_hub_cdn.py. Limits are as in
docs.docker.com/docker-hub/usage/pulls: a GET of a manifest, by tag or by digest, counts for the account or
else for the address; a HEAD does not, and is answered when nothing remains, too.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.support.fake_docker_hub_accounts import SERVICE, Accounts
from tests.support.fake_docker_hub_cdn import Cdn
from tests.support.images import Image, Index
from tests.support.origin import Answer, Origin, Seen
from tests.support.trust import Trust

ANONYMOUS = "203.0.113.7"
"""The address that all who have no account come from: the world is behind one NAT (RFC 5737)."""
LIMIT, USER_LIMIT, WINDOW = 100, 200, 21600
REACHED = (
    "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
    "You have reached your pull rate limit as '{}'. https://www.docker.com/increase-rate-limit",
)
Headers = dict[str, str]


class Hub:
    """Serves as three names on three addresses until `close`; may stand in `start_proxy(hub)`.

    `users` are names and passwords. `private` repositories are for those alone; to others they look like what
    is not there. `retry_after`: what 429 says in Retry-After; None: nothing, as Docker Hub does. `clock`: the
    time of tokens, URLs and limits, in seconds since the epoch. `rate`: of the CDN, in bytes a second.

    `counted` are the GETs of manifests that count against a limit, and `heads` the HEADs that don't, by
    account name or address; `limited` the requests refused for it, HEADs too if `limit_heads` is set.
    """

    def __init__(
        self,
        trust: Trust,
        *,
        names: tuple[str, str, str] = (
            "registry-1.docker.test",
            "auth.docker.test",
            "production.dockercdn.test",
        ),
        users: Mapping[str, str] | None = None,
        private: tuple[str, ...] = (),
        limit: int = LIMIT,
        user_limit: int = USER_LIMIT,
        retry_after: int | None = None,
        token_lifetime: int = 300,
        url_lifetime: int = 1200,
        clock: Callable[[], float] = time.time,
        rate: float | None = None,
    ) -> None:
        self.private = private
        self.retry_after = retry_after
        self.limit_heads = False
        self.counted: Counter[str] = Counter()
        self.heads: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self._limits = limit, user_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._manifests: dict[tuple[str, str], Image | Index] = {}  # by repository and digest
        self._tags: dict[tuple[str, str], list[tuple[float, Image | Index]]] = {}
        self._uses: dict[str, deque[float]] = {}
        self.registry = Origin(trust, names[0])
        self.accounts = Accounts(Origin(trust, names[1]), users or {}, token_lifetime, clock, self._may)
        self.cdn = Cdn(Origin(trust, names[2], rate=rate), url_lifetime, clock)
        self.registry.on("/v2/", self._answer_ping)
        self.registry.on("/v2/*", self._answer)

    # --- what a test says and asks -----------------------------------------------------------------------

    @property
    def authority(self) -> str:
        """ "name:port" of the registry."""
        return self.registry.authority

    @property
    def authorities(self) -> tuple[str, ...]:
        """ "name:port" of all three."""
        return tuple(origin.authority for origin in self._origins)

    @property
    def resolve(self) -> dict[str, str]:
        return {name: address for origin in self._origins for name, address in origin.resolve.items()}

    @property
    def _origins(self) -> tuple[Origin, ...]:
        return self.registry, self.accounts.origin, self.cdn.origin

    def put(self, repository: str, image: Image | Index, *tags: str) -> None:
        """Push: from now on these tags are this image; those that were another one have moved."""
        with self._lock:
            for child in (image, *image.images):
                self._manifests[repository, child.digest] = child
            for tag in tags:
                self._tags.setdefault((repository, tag), []).append((self._clock(), image))
        self.cdn.blobs.update(image.blobs)

    def digests(self, repository: str, tag: str, since: float) -> set[str]:
        """The digests that the tag has had from `since` on until now."""
        with self._lock:
            history = list(self._tags[repository, tag])
        ends = [began for began, _ in history[1:]] + [float("inf")]
        return {image.digest for (_, image), end in zip(history, ends, strict=True) if end >= since}

    def remaining(self, identity: str = ANONYMOUS) -> int:
        """How many GETs of manifests this account, or address, has left."""
        with self._lock:
            return self._remaining(identity)

    def count(self, method: str, part: str = "") -> int:
        """How many requests with this method and `part` in their path have reached the registry."""
        return self.registry.count(method, part)

    def close(self) -> None:
        for origin in self._origins:
            origin.close()

    # --- the registry ------------------------------------------------------------------------------------

    def _may(self, repository: str, user: str | None) -> bool:
        known = any(name == repository for name, _ in list(self._manifests))
        return known and (user is not None or repository not in self.private)

    def _answer_ping(self, seen: Seen) -> Answer:
        granted = self.accounts.granted(seen)
        if isinstance(granted, str):
            return self._challenge("", granted)
        return Answer(b"{}", headers=_json_headers())

    def _answer(self, seen: Seen) -> Answer:
        repository, _, rest = seen.path.removeprefix("/v2/").rpartition("/")
        repository, _, kind = repository.rpartition("/")
        if kind not in ("manifests", "blobs") or seen.method not in ("GET", "HEAD"):
            return _error(404, "NOT_FOUND", "page not found")
        granted = self.accounts.granted(seen)
        if isinstance(granted, str):
            return self._challenge(repository, granted)
        user, repositories = granted
        if repository not in repositories:
            return self._challenge(repository, "insufficient_scope")
        if kind == "blobs":
            return self._blob(seen, rest)
        return self._manifest(seen, user or ANONYMOUS, repository, rest)

    def _challenge(self, repository: str, error: str) -> Answer:
        value = f'Bearer realm="{self.accounts.realm}",service="{SERVICE}"'
        detail = None
        if repository:
            value += f',scope="repository:{repository}:pull"'
            detail = [{"Type": "repository", "Class": "", "Name": repository, "Action": "pull"}]
        if error:
            value += f',error="{error}"'
        return _error(401, "UNAUTHORIZED", "authentication required", detail, {"www-authenticate": value})

    def _manifest(self, seen: Seen, identity: str, repository: str, reference: str) -> Answer:
        with self._lock:
            image = self._find(repository, reference)
            if image is None:
                detail = f"unknown tag={reference}"
                return _error(404, "MANIFEST_UNKNOWN", "manifest unknown", detail)
            counts = seen.method == "GET"
            if (counts or self.limit_heads) and self._remaining(identity) <= 0:
                self.limited[identity] += 1
                return self._too_many(identity)
            (self.counted if counts else self.heads)[identity] += 1
            if counts:
                self._uses[identity].append(self._clock())
            limits = self._limit_headers(identity)
        if isinstance(image, Index) and ":" not in reference and not _accepts(seen, image.media_type):
            image = image.images[0]
        named = {
            "content-type": image.media_type,
            "docker-content-digest": image.digest,
            "docker-distribution-api-version": "registry/2.0",
            "etag": f'"{image.digest}"',
        }
        return Answer(image.manifest, headers=named | limits, ranges=False)

    def _find(self, repository: str, reference: str) -> Image | Index | None:
        if ":" in reference:
            return self._manifests.get((repository, reference))
        history = self._tags.get((repository, reference))
        return history[-1][1] if history else None

    def _remaining(self, identity: str) -> int:
        uses = self._uses.setdefault(identity, deque())
        while uses and uses[0] <= self._clock() - WINDOW:
            uses.popleft()
        return self._limits[identity != ANONYMOUS] - len(uses)

    def _limit_headers(self, identity: str) -> Headers:
        return {
            "ratelimit-limit": f"{self._limits[identity != ANONYMOUS]};w={WINDOW}",
            "ratelimit-remaining": f"{max(0, self._remaining(identity))};w={WINDOW}",
            # An account is named by its id, not its name.
            "docker-ratelimit-source": identity
            if identity == ANONYMOUS
            else str(uuid.uuid5(uuid.NAMESPACE_DNS, identity)),
        }

    def _too_many(self, identity: str) -> Answer:
        message = REACHED[identity != ANONYMOUS].format(identity)
        headers = self._limit_headers(identity)
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return _error(429, "TOOMANYREQUESTS", message, None, headers)

    def _blob(self, seen: Seen, digest: str) -> Answer:
        if digest not in self.cdn.blobs:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
        location = self.cdn.url(seen.method, digest)
        body = f'<a href="{location.replace("&", "&amp;")}">Temporary Redirect</a>.\n\n'.encode()
        headers = {"location": location, "content-type": "text/html; charset=utf-8"}
        return Answer(body, 307, headers | {"docker-distribution-api-version": "registry/2.0"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _json_headers() -> Headers:
    return {"content-type": "application/json", "docker-distribution-api-version": "registry/2.0"}


def _error(
    status: int, code: str, message: str, detail: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    error = {"code": code, "message": message} | ({} if detail is None else {"detail": detail})
    body = json.dumps({"errors": [error]}).encode()
    return Answer(body, status, _json_headers() | dict(headers or {}))


def _accepts(seen: Seen, media_type: str) -> bool:
    """Whether a client takes this type; one that says nothing, or anything, is older than indexes are."""
    names = {part.partition(";")[0].strip() for value in seen.all("accept") for part in value.split(",")}
    return media_type in names
