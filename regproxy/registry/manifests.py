"""Determine and check the media types of manifests (OCI image spec; distribution, schema 1 and 2)."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from msgspec import Struct

from regproxy.core.errors import BadResponse, NotUnderstood
from regproxy.registry.targets import is_digest

MANIFEST_MAX: Final = 4 * 1024 * 1024  # bytes; the limit that the spec asks registries to take at least
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
# Manifests of 2022's artifact drafts; still in registries, and without a schemaVersion.
_ARTIFACTS: Final = frozenset(
    {"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json"}
)
SCHEMA1_TYPES: Final = frozenset({_SCHEMA1, _SCHEMA1_SIGNED})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST}) | SCHEMA1_TYPES | INDEX_TYPES | _ARTIFACTS
# Sent by servers that do not know manifests; distribution used application/json for schema 1.
_GENERIC_TYPES: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})
# RFC 6838 4.2
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})


class ManifestType(Struct, frozen=True):
    """The media type of a manifest's bytes. `stated`: they name it themselves, which overrides a
    Content-Type.
    """

    media_type: str
    stated: bool

    @property
    def signed(self) -> bool:
        """Whether it is a schema 1 manifest with signatures, which its digest leaves out."""
        return self.media_type == _SCHEMA1_SIGNED

    def told(self, content_type: str) -> str:
        """Return the type to send if a registry has sent `content_type` for these bytes."""
        declared = _bare(content_type)
        if self.stated or declared in _GENERIC_TYPES | _HTML_TYPES or not _MEDIA_TYPE.fullmatch(declared):
            return self.media_type
        # One body must not be read in two ways (CVE-2021-41190).
        contradicts = (declared in INDEX_TYPES) != (self.media_type in INDEX_TYPES)
        return self.media_type if contradicts and declared in MANIFEST_TYPES and self.media_type else declared


NO_MANIFEST: Final = ManifestType("", False)  # of other content: only the registry's Content-Type counts


def manifest_type(body: bytes) -> ManifestType:
    """Return the type that the bytes of a manifest state or imply (OCI image spec, "mediaType").

    Raises BadResponse if they are no manifest.
    """
    document = _json_object(body)
    own = document.get("mediaType")
    stated = isinstance(own, str) and bool(own)
    media_type = _media_type("", own if isinstance(own, str) else "", document)
    _check_shape(media_type, document)
    return ManifestType(media_type, stated or media_type in SCHEMA1_TYPES)


def media_type_of(body: bytes) -> str:
    """Return the media type of a manifest, "" for what is none."""
    try:
        return manifest_type(body).media_type
    except BadResponse:
        return ""


def is_media_type(text: str) -> bool:
    """Return whether a text has the form of a media type (RFC 6838 4.2)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def check_manifest(body: bytes, content_type: str, vouched: bool = False) -> str:
    """Return the media type of the manifest `body` that came with `content_type`.

    Content-Type decides if it names a type; the body's own `mediaType` must agree (OCI image spec). If it
    names none (application/json), the body decides. Raises BadResponse: too large, HTML, not a JSON object,
    no schemaVersion, types that disagree, an index that is also a manifest.

    `vouched`: the registry has named the digest of these bytes, so they are what it means. What is no
    manifest then is NotUnderstood, as is a JSON object that it calls a manifest.
    """
    declared = _bare(content_type)
    if len(body) > MANIFEST_MAX:
        raise NotUnderstood(f"manifest of {len(body)} bytes: more than {MANIFEST_MAX}", "too-large")
    if declared in _HTML_TYPES or body[:64].lstrip().startswith(b"<"):
        raise _no_manifest("an HTML page instead of a manifest", vouched)
    try:
        document = _json_object(body)
    except BadResponse as error:
        raise _no_manifest(str(error), vouched) from None
    own = document.get("mediaType", "")
    if not isinstance(own, str):
        raise NotUnderstood("manifest whose mediaType is not a string", "media-type")
    media_type = _media_type(declared, own, document)
    _check_shape(media_type, document, vouched or declared in MANIFEST_TYPES)
    return media_type


def named_in(body: bytes) -> tuple[str, ...]:
    """Return the digests that a manifest or an index names: of manifests, its config, its layers.

    Empty for what is none. What `subject` names does not belong to it.
    """
    try:
        document = _json_object(body)
    except BadResponse:
        return ()
    entries: list[Any] = [document.get("config")]
    for key in ("manifests", "layers", "blobs", "fsLayers"):
        listed = document.get(key)
        entries += listed if isinstance(listed, list) else []
    names = (entry.get("digest", entry.get("blobSum")) for entry in entries if isinstance(entry, dict))
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and is_digest(name)))


def _no_manifest(message: str, vouched: bool) -> BadResponse:
    return NotUnderstood(message, "no-manifest") if vouched else BadResponse(message)


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
        # Schema 1 bodies have no valid mediaType, and are served under either of their two types.
        agrees = schema1 if declared in SCHEMA1_TYPES else own in ("", declared)
        if not agrees or (schema1 and declared in MANIFEST_TYPES - SCHEMA1_TYPES):
            raise NotUnderstood(f"manifest of type {own or 'schema 1'!r} sent as {declared!r}", "media-type")
        return declared
    if own:
        if not _MEDIA_TYPE.fullmatch(own):
            raise NotUnderstood("manifest whose mediaType is no media type", "media-type")
        return own
    if schema1:
        return _SCHEMA1_SIGNED if "signatures" in document else _SCHEMA1
    # Docker's types require a mediaType in the body, OCI's don't.
    return OCI_INDEX if "manifests" in document else OCI_MANIFEST


def _check_shape(media_type: str, document: dict[str, Any], vouched: bool = False) -> None:
    """Raise BadResponse for what is no manifest, NotUnderstood where it is `vouched` for.

    Refused in any case is what clients refuse too: CVE-2021-41190, one body that is read in two ways.
    """
    if media_type in _ARTIFACTS:
        return
    if media_type in INDEX_TYPES:
        if document.get("manifests") and (document.get("layers") or document.get("config")):
            raise BadResponse("index that is also a manifest")
    elif media_type in MANIFEST_TYPES and document.get("manifests"):
        raise BadResponse("manifest that is also an index")
    version = document.get("schemaVersion")
    if type(version) is not int or version not in (1, 2):
        raise _no_manifest("manifest without a schemaVersion of 1 or 2", vouched)
    if media_type in INDEX_TYPES and not isinstance(document.get("manifests"), list):
        raise _no_manifest("index without a list of manifests", vouched)
