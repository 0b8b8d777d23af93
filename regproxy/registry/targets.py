"""Parse paths of the OCI distribution spec into what they ask for."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from msgspec import Struct


class Kind(StrEnum):
    """The kind of request that a path stands for. The values are words for logs and metrics."""

    BLOB = "blob-by-digest"
    MANIFEST = "manifest-by-digest"
    TAG = "manifest-tag"
    BLOB_MUTABLE = "blob-mutable"
    PING = "ping"
    TOKEN = "token"
    UPLOAD = "upload"
    V1 = "v1"
    OTHER = "other"


class Target(Struct, frozen=True):
    """A parsed path. `repository` may be ""; `reference` is `sha256:<64 hex>`, a tag, or ""."""

    kind: Kind
    repository: str = ""
    reference: str = ""


_OTHER = Target(Kind.OTHER)
_MEMO_PATH_MAX = 512  # characters; paths of cached content are shorter, and longer ones could fill the memory
_NAME_MAX = 255  # bytes of a repository's name, as in distribution
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Greedy, as the registries' own routers are: a repository may have a component `blobs` or `manifests`.
_CONTENT = re.compile(r"/v2/(.+)/(blobs|manifests)/([^/]*)")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads(?:/.*)?")
_BLOBS = re.compile(r"/v2/(.+)/blobs/.*")
# A path with one of these as a segment is a repository's, or not what it seems; never a token endpoint.
_NO_TOKEN_PATH = frozenset({"blobs", "manifests", "tags", "referrers", "", ".", ".."})


def is_digest(text: str) -> bool:
    """Tell whether `text` is `sha256:` and 64 lower-case hex digits; other algorithms are not cached."""
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Tell whether `text` is a tag (OCI distribution spec, "Pulling manifests")."""
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Tell whether `text` is a repository's name (OCI distribution spec, "Pulling manifests")."""
    return len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None


def parse_target(path: str) -> Target:
    """Return the target of `path` (origin-form, including its query). Never raises: an unknown path is OTHER.

    Matched on the percent-decoded path without the query, in this order: blob by digest, manifest by digest,
    tag, upload, other blobs, ping, /v1, token. A repository or tag that breaks the spec's grammar is OTHER,
    hence passed on uncached. So is a path with %2F in it: an origin may or may not take it for a slash.
    """
    path = path.partition("?")[0]
    return _parse_target(path) if len(path) <= _MEMO_PATH_MAX else _parse_target.__wrapped__(path)


@lru_cache(maxsize=4096)
def _parse_target(path: str) -> Target:
    decoded = _decoded(path)
    if decoded is None:
        return _OTHER
    if decoded.startswith("/v2/"):
        if decoded == "/v2/":
            return Target(Kind.PING)
        return _repository_target(decoded) or _token_target(decoded)
    if decoded == "/v2":
        return Target(Kind.PING)
    if decoded == "/v1/search":  # `docker search`, of index.docker.io: no pull, and Docker Hub still has it
        return _OTHER
    # A prefix, not a segment, as in docker-registry-proxy.
    return Target(Kind.V1) if decoded.startswith("/v1") else _token_target(decoded)


def _decoded(path: str) -> str | None:
    """Return the percent-decoded path, None if it can't be one of the known ones."""
    if not path.isascii():
        return None
    if "%" not in path:
        return path
    if "%2f" in path.lower():
        return None
    decoded = unquote_to_bytes(path)
    text = decoded.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


def _repository_target(path: str) -> Target | None:
    """Return the target of `/v2/<repository>/(blobs|manifests)/...`; None if it has another form."""
    content = _CONTENT.fullmatch(path)
    if content is not None:
        repository, section, reference = content.groups()
        if is_digest(reference):
            return _target(Kind.BLOB if section == "blobs" else Kind.MANIFEST, repository, reference)
        if section == "manifests" and is_tag(reference):
            return _target(Kind.TAG, repository, reference)
    for kind, pattern in ((Kind.UPLOAD, _UPLOAD), (Kind.BLOB_MUTABLE, _BLOBS)):
        match = pattern.fullmatch(path)
        if match is not None:
            return _target(kind, match[1], "")
    return None


def _target(kind: Kind, repository: str, reference: str) -> Target:
    if not is_repository(repository):
        return _OTHER
    return Target(kind, repository, reference)


def _token_target(path: str) -> Target:
    """Return TOKEN for `/token`, `/v2/token`, `/jwt/auth`, `/token/` (public.ecr.aws) and the like, else
    OTHER.
    """
    root, *segments = path.removesuffix("/").split("/")
    if root or not segments or segments[-1] not in ("token", "auth"):
        return _OTHER
    return Target(Kind.TOKEN) if _NO_TOKEN_PATH.isdisjoint(segments) else _OTHER
