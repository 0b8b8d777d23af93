"""Pin images and contents, so that they are not evicted.

An image is written as people write it: `nginx`, `registry.k8s.io/pause:3.9`, `host:5000/a/b@sha256:...`. Its
content is read from its manifests: content that is in the cache stays, and content that is not yet will stay
once it arrives.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index
from regproxy.config.hosts import DOCKER_HUB, DOCKER_HUB_NAMES, DOCKER_HUB_REGISTRY
from regproxy.config.values import parse_host, split_host_port
from regproxy.core.errors import BadResponse, RegproxyError
from regproxy.registry import manifests, targets
from regproxy.registry.manifests import INDEX_TYPES, MANIFEST_MAX
from regproxy.registry.targets import Kind

_LATEST: Final = "latest"
MOST_PINNED: Final = 20_000  # digests that a name keeps: ten times what an index of many platforms names
_SYNTAX: Final = (
    "not the name of an image, such as nginx, registry.k8s.io/pause:3.9 or host/a/b@sha256:..., or sha256:..."
    " with 64 hex digits (repositories are in lower case)"
)


class PinError(RegproxyError):
    """A name that can't be pinned or unpinned: says why, and what would help."""


class Reference(Struct, frozen=True):
    """A parsed name. `host` and `port` are those of the origin, "" and 0 for content by digest alone.

    `digest` is "" for a tag, and `tag` is "" for a digest.
    """

    host: str
    port: int
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """The normalised name under which pins are stored."""
        if not self.host:
            return self.digest
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{registry_name(self.host, self.port)}/{self.repository}{end}"


class Pinned(Struct, frozen=True):
    """A pin: its name, how many digests it keeps, how many of these are in the cache, and their bytes."""

    name: str
    digests: int
    held: int
    bytes: int


def registry_name(host: str, port: int) -> str:
    """Return a registry as people write it: `docker.io`, `[::1]:5000`."""
    host = DOCKER_HUB if (host, port) == (DOCKER_HUB_REGISTRY, 443) else host
    host = f"[{host}]" if ":" in host else host
    return host if port == 443 else f"{host}:{port}"


def name_of_logged(name: str) -> str:
    """Return the same of what logs and metrics call a registry (http.origin.named): the API has one name."""
    if name == DOCKER_HUB_REGISTRY:
        return DOCKER_HUB
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


def parse_registry(text: str) -> tuple[str, int]:
    """Return the host and port that a registry is known by in the index. Raises PinError."""
    try:
        host, port = split_host_port(text.strip().rstrip("/"))
        host = parse_host(host)
    except ValueError:
        raise PinError(f"{text}: not a registry, such as docker.io, ghcr.io or host:5000") from None
    return (DOCKER_HUB_REGISTRY if host in DOCKER_HUB_NAMES else host), port or 443


def parse(text: str) -> Reference:
    """Return the parsed name. Raises PinError."""
    if targets.is_digest(text):
        return Reference("", 0, "", "", text)
    rest, at, digest = text.removeprefix("docker://").partition("@")
    host, port, path = _split_host(rest, text)
    repository, colon, tag = path.partition(":")
    if host in DOCKER_HUB_NAMES:
        host, repository = DOCKER_HUB_REGISTRY, repository if "/" in repository else f"library/{repository}"
    wanted = digest or tag or _LATEST
    target = targets.parse_target(f"/v2/{repository}/manifests/{wanted}")
    if at:
        good = target.kind is Kind.MANIFEST and targets.is_digest(digest)
    else:
        good = target.kind is Kind.TAG and bool(tag) == bool(colon) and not rest.startswith("sha256:")
    if not good or target.repository != repository:
        raise PinError(f"{text}: {_SYNTAX}")
    return Reference(host, port, repository, "" if digest else wanted, digest)


def _split_host(rest: str, text: str) -> tuple[str, int, str]:
    """Split off the host by Docker's rule: the first component is a host if it looks like one, else all of it
    is on Docker Hub.
    """
    first, slash, path = rest.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB, 443, rest
    try:
        host, port = split_host_port(first)
        return parse_host(host), port or 443, path
    except ValueError:
        raise PinError(f"{text}: {_SYNTAX}") from None


def pin(root: Path, index: Index, text: str) -> Pinned:
    """Pin what a name means now, in place of an earlier pin of that name.

    Raises PinError if it is not in the cache or names more than MOST_PINNED contents, StoreError if the
    index can't be written.
    """
    reference = parse(text)
    digests = list(islice(_closure(root, _entries(root, index, reference)), MOST_PINNED + 1))
    if len(digests) > MOST_PINNED:
        raise PinError(f"{reference.name} names more than {MOST_PINNED:,} contents: pin its parts by digest")
    if {digest for name, digest in index.pins() if name == reference.name} - set(digests):
        index.unpin(reference.name)
    index.pin(reference.name, digests)
    return _pinned(root, reference.name, digests)


def unpin(index: Index, text: str) -> Reference:
    """Remove the pin of a name. Raises PinError if there is none."""
    reference = parse(text)
    if not index.unpin(reference.name):
        raise PinError(f"{reference.name} is not pinned; `regproxy cache pins` lists what is")
    return reference


def listing(root: Path, index: Index) -> list[Pinned]:
    """Return all pins, by name."""
    pins: dict[str, list[str]] = {}
    for name, digest in index.pins():
        pins.setdefault(name, []).append(digest)
    return [_pinned(root, name, digests) for name, digests in sorted(pins.items())]


def _pinned(root: Path, name: str, digests: list[str]) -> Pinned:
    sizes = [status.st_size for digest in digests if (status := _status(root, digest)) is not None]
    return Pinned(name, len(digests), len(sizes), sum(sizes))


def _entries(root: Path, index: Index, reference: Reference) -> list[str]:
    """Return the digests that a name stands for, and that are in the cache."""
    if reference.digest:
        known = [reference.digest]
    else:
        rows = index.tag(reference.host, reference.port, reference.repository, reference.tag)
        known = list(dict.fromkeys(row.digest for row in rows))
    held = [digest for digest in known if _status(root, digest) is not None]
    if not held:
        how = f"pull {reference.name} through the proxy" if reference.host else "pull what it belongs to"
        raise PinError(f"{reference.name} is not in the cache: {how} first, and pin it then")
    return held


def _closure(root: Path, entries: list[str]) -> Iterator[str]:
    """Yield the digests of `entries` and of all that their manifests name, each once; more than MOST_PINNED
    where there are more, but not all of them then.
    """
    # Only entries of an index, and the pinned content itself, can be manifests; a layer is never read.
    todo = deque((digest, True) for digest in entries)
    seen = set(entries)
    while todo:
        digest, maybe_manifest = todo.popleft()
        yield digest
        # Once that is known, no other is read: each may name as many again, and all of them would be kept.
        known = len(seen) > MOST_PINNED
        children = _children(root, digest) if maybe_manifest and not known else []
        todo.extend(child for child in children if child[0] not in seen)
        seen.update(child for child, _ in children)


def _children(root: Path, digest: str) -> list[tuple[str, bool]]:
    """Return the digests that a manifest names, and whether each may be a manifest; none for other
    content.
    """
    body = _read_small(root, digest)
    try:
        media_type = manifests.check_manifest(body, "")
        document: dict[str, Any] = json.loads(body)
    except BadResponse:
        return []
    is_index = media_type in INDEX_TYPES
    if is_index:
        found = [_field(entry, "digest") for entry in _list(document, "manifests")]
    else:
        parts = [document.get("config"), *_list(document, "layers"), *_list(document, "blobs")]
        found = [_field(part, "digest") for part in parts]
        found += [_field(layer, "blobSum") for layer in _list(document, "fsLayers")]  # schema 1
    return [(child, is_index) for child in dict.fromkeys(found) if targets.is_digest(child)]


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _field(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, str) else ""


def _read_small(root: Path, digest: str) -> bytes:
    """Return the content of a possible manifest; b"" if it is too large, gone or damaged."""
    status = _status(root, digest)
    if status is not None and status.st_size <= MANIFEST_MAX:
        with suppress(OSError):
            body = Path(layout.blob(root, digest)).read_bytes()
            if "sha256:" + hashlib.sha256(body).hexdigest() == digest:
                return body
    return b""


def _status(root: Path, digest: str) -> Any:
    with suppress(OSError):
        return reconcile.look(root, digest)
    return None
