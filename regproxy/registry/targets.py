"""The OCI distribution spec: what a path means, what an error looks like, what a manifest is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from regproxy.core.errors import BadResponse

MANIFEST_MAX: Final = 4 * 1024 * 1024  # bytes; the limit that the spec asks registries to take at least

_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
# Manifests of 2022's artifact drafts; still in registries, and without a schemaVersion.
_ARTIFACTS: Final = frozenset(
    {"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json"}
)

_SCHEMA1_TYPES: Final = frozenset({_SCHEMA1, _SCHEMA1_SIGNED})

INDEX_TYPES: Final = frozenset({_OCI_INDEX, _DOCKER_LIST})
MANIFEST_TYPES: Final = (
    frozenset({_OCI_MANIFEST, _DOCKER_MANIFEST}) | _SCHEMA1_TYPES | INDEX_TYPES | _ARTIFACTS
)
# What servers say that know nothing of manifests; distribution used application/json for schema 1.
_GENERIC_TYPES: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

# RFC 6838 4.2
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})

# A registry turns an index into one platform's manifest, and that into schema 1, for a client that does not
# name the type of what is there. So who was sent a lower type may not have named all of those above it.
_ABOVE: Final = (_OCI_INDEX, _DOCKER_LIST, _OCI_MANIFEST, _DOCKER_MANIFEST)
_INDEX_BITS: Final = 0b0011
_ALL_BITS: Final = 0b1111


def bits_above(media_type: str) -> int:
    """Return the types, as bits of Accept.named, that an answer of `media_type` may have been made from."""
    if media_type in INDEX_TYPES:
        return 0
    return _ALL_BITS if media_type in _SCHEMA1_TYPES else _INDEX_BITS


class Kind(StrEnum):
    """What a path asks for. The values are words for logs and metrics."""

    BLOB = "blob-by-digest"
    MANIFEST = "manifest-by-digest"
    TAG = "manifest-tag"
    BLOB_MUTABLE = "blob-mutable"
    PING = "ping"
    TOKEN = "token"
    UPLOAD = "upload"
    V1 = "v1"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Target:
    """A path's meaning. `repository` may be ""; `reference` is `sha256:<64 hex>`, a tag, or ""."""

    kind: Kind
    repository: str = ""
    reference: str = ""


_OTHER = Target(Kind.OTHER)
_MEMO_PATH_MAX = 512  # characters; all that is cached is shorter, and longer ones could fill the memory
_NAME_MAX = 255  # bytes of a repository's name, as in distribution
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Greedy, as the registries' own routers are: a repository may have a component `blobs` or `manifests`.
_CONTENT = re.compile(r"/v2/(.+)/(blobs|manifests)/([^/]*)")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads(?:/.*)?")
_BLOBS = re.compile(r"/v2/(.+)/blobs/.*")
# A path with one of these as a segment is a repository's, or not what it looks like; never a token endpoint.
_NO_TOKEN_PATH = frozenset({"blobs", "manifests", "tags", "referrers", "", ".", ".."})


def is_digest(text: str) -> bool:
    """Tell whether `text` is `sha256:` and 64 lower-case hex digits; other algorithms are not cached."""
    return _DIGEST.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Tell whether `text` is a repository's name (OCI distribution spec, "Pulling manifests")."""
    return len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None


def parse_target(path: str) -> Target:
    """Return what `path` (origin-form, query and all) asks for. Never raises: what is not known is OTHER.

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
    # A prefix, not a segment, as in docker-registry-proxy.
    return Target(Kind.V1) if decoded.startswith("/v1") else _token_target(decoded)


def _decoded(path: str) -> str | None:
    """Return the percent-decoded path, None when it can't be any of those that we know."""
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
    """Return the target of `/v2/<repository>/(blobs|manifests)/...`; None when it has another form."""
    content = _CONTENT.fullmatch(path)
    if content is not None:
        repository, section, reference = content.groups()
        if is_digest(reference):
            return _target(Kind.BLOB if section == "blobs" else Kind.MANIFEST, repository, reference)
        if section == "manifests" and _TAG.fullmatch(reference) is not None:
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
    """TOKEN for `/token`, `/v2/token`, `/jwt/auth`, `/token/` (public.ecr.aws) and the like, else OTHER."""
    root, *segments = path.removesuffix("/").split("/")
    if root or not segments or segments[-1] not in ("token", "auth"):
        return _OTHER
    return Target(Kind.TOKEN) if _NO_TOKEN_PATH.isdisjoint(segments) else _OTHER


def error_body(code: str, message: str, detail: object = None) -> bytes:
    """Return the JSON body of an error (OCI distribution spec, "Error Codes"); `detail` must be JSON's."""
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return json.dumps({"errors": [error]}, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class ManifestType:
    """The media type of a manifest's bytes. `stated`: they name it themselves, and nobody else has a say."""

    media_type: str
    stated: bool

    def told(self, content_type: str) -> str:
        """Return the type to send where a registry has said `content_type` of these bytes."""
        declared = _bare(content_type)
        if self.stated or declared in _GENERIC_TYPES | _HTML_TYPES or not _MEDIA_TYPE.fullmatch(declared):
            return self.media_type
        # One body must not be read in two ways (CVE-2021-41190).
        contradicts = (declared in INDEX_TYPES) != (self.media_type in INDEX_TYPES)
        return self.media_type if contradicts and declared in MANIFEST_TYPES else declared


NO_MANIFEST: Final = ManifestType("", False)  # of other content: a registry's word is all there is


def manifest_type(body: bytes) -> ManifestType:
    """Return what the bytes of a manifest say of their type (OCI image spec, "mediaType").

    Raises BadResponse where they are no manifest.
    """
    document = _json_object(body)
    own = document.get("mediaType")
    stated = isinstance(own, str) and bool(own)
    media_type = _media_type("", own if isinstance(own, str) else "", document)
    _check_shape(media_type, document)
    return ManifestType(media_type, stated or media_type in _SCHEMA1_TYPES)


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def check_manifest(body: bytes, content_type: str) -> str:
    """Return the media type of the manifest `body` that came with `content_type`.

    Content-Type decides where it names a type; the body's own `mediaType` must agree (OCI image spec).
    Where it names none (application/json), the body decides. Raises BadResponse: too large, HTML, not a JSON
    object, no schemaVersion, types that disagree, an index that is also a manifest.
    """
    declared = _bare(content_type)
    if len(body) > MANIFEST_MAX:
        raise BadResponse(f"manifest of {len(body)} bytes: more than {MANIFEST_MAX}")
    if declared in _HTML_TYPES or body[:64].lstrip().startswith(b"<"):
        raise BadResponse("an HTML page instead of a manifest")
    document = _json_object(body)
    own = document.get("mediaType", "")
    if not isinstance(own, str):
        raise BadResponse("manifest whose mediaType is not a string")
    media_type = _media_type(declared, own, document)
    _check_shape(media_type, document)
    return media_type


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadResponse("manifest that is not JSON") from None
    if not isinstance(document, dict):
        raise BadResponse("manifest that is not a JSON object")
    return document


def _media_type(declared: str, own: str, document: dict[str, Any]) -> str:
    version = document.get("schemaVersion")
    schema1 = type(version) is int and version == 1  # true == 1 in Python, not in JSON
    if declared not in _GENERIC_TYPES:
        # Schema 1 bodies carry no mediaType that counts, and are served under either of their two types.
        agrees = schema1 if declared in _SCHEMA1_TYPES else own in ("", declared)
        if not agrees or (schema1 and declared in MANIFEST_TYPES - _SCHEMA1_TYPES):
            raise BadResponse(f"manifest of type {own or 'schema 1'!r} sent as {declared!r}")
        return declared
    if own:
        if not _MEDIA_TYPE.fullmatch(own):
            raise BadResponse("manifest whose mediaType is no media type")
        return own
    if schema1:
        return _SCHEMA1_SIGNED if "signatures" in document else _SCHEMA1
    # Docker's types demand a mediaType in the body, OCI's don't.
    return _OCI_INDEX if "manifests" in document else _OCI_MANIFEST


def _check_shape(media_type: str, document: dict[str, Any]) -> None:
    """Raise BadResponse for what clients refuse too: CVE-2021-41190, one body with two readings."""
    if media_type in _ARTIFACTS:
        return
    version = document.get("schemaVersion")
    if type(version) is not int or version not in (1, 2):
        raise BadResponse("manifest without a schemaVersion of 1 or 2")
    if media_type in INDEX_TYPES:
        if not isinstance(document.get("manifests"), list):
            raise BadResponse("index without a list of manifests")
        if document.get("layers") or document.get("config"):
            raise BadResponse("index that is also a manifest")
    elif media_type in MANIFEST_TYPES and document.get("manifests"):
        raise BadResponse("manifest that is also an index")


@dataclass(frozen=True, slots=True)
class Accept:
    """The media types that a request takes; equal whatever the order and the spelling of its lines.

    Media ranges in lower case, without parameters: `wanted` with q > 0, `refused` with q = 0. No range at all
    means that everything is taken (RFC 9110 12.5.1).
    """

    wanted: frozenset[str]
    refused: frozenset[str]

    def accepts(self, media_type: str) -> bool:
        """Tell whether `media_type` may be sent; the most specific range that matches decides."""
        for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
            if media_range in self.refused:
                return False
            if media_range in self.wanted:
                return True
        return not self.wanted and not self.refused

    @property
    def named(self) -> int:
        """The types that a registry may answer with as they are, a bit for each.

        Those that are named alone: to `*/*` registries answer with one platform's manifest.
        """
        return sum(1 << bit for bit, media_type in enumerate(_ABOVE) if media_type in self.wanted)

    @property
    def key(self) -> str:
        """A canonical text, for use as a key on disk."""
        return ",".join([*sorted(self.wanted), *(f"{refused};q=0" for refused in sorted(self.refused))])

    @property
    def members(self) -> list[bytes]:
        """The members as they are sent for everybody who has the same key: wildcards last, no weights."""
        wanted = sorted(self.wanted, key=lambda media_range: (media_range.count("*"), media_range))
        members = [*wanted, *(f"{refused};q=0" for refused in sorted(self.refused))]
        return [member.encode("ascii") for member in members]


def parse_accept(values: Iterable[bytes]) -> Accept:
    """Return what the Accept lines `values` say. Members that can't be read are left out."""
    return _parse_accept(tuple(values))


_QUALITY = re.compile(r";[ \t]*q[ \t]*=[ \t]*([0-9.]*)")
# RFC 9110 5.6.2, 12.5.1. Nothing else is taken for one: a registry that reads it otherwise than we do would
# give an answer that is entered as that to another question.
_MEDIA_RANGE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")


@lru_cache(maxsize=256)
def _parse_accept(values: tuple[bytes, ...]) -> Accept:
    wanted: set[str] = set()
    refused: set[str] = set()
    for member in b",".join(values).decode("latin-1").lower().split(","):
        media_range = member.partition(";")[0].strip(" \t")
        if not _MEDIA_RANGE.fullmatch(media_range):
            continue
        quality = _QUALITY.search(member)
        zero = quality is not None and quality[1].strip("0.") == "" and "0" in quality[1]
        (refused if zero else wanted).add(media_range)
    return Accept(frozenset(wanted), frozenset(refused - wanted))
