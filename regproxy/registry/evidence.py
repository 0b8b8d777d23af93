"""Judge whether an answer to HEAD shows that a registry has some content, and lets the asker have it.

A success alone shows nothing: what stands before a registry may answer anything with a page to log in at.
"""

from __future__ import annotations

from enum import Enum, auto

from regproxy.http.messages import Response
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.registry.targets import Kind, Target, is_digest


class Evidence(Enum):
    """What an answer shows."""

    CLEAR = auto()
    WEAK = auto()  # it may be what was asked for; nothing says so
    NONE = auto()


def evidence(target: Target, response: Response, size: int | None) -> Evidence:
    """Return what a success shows for content that was asked for. `size`: its bytes, None if not known.

    A registry names the digest (OCI distribution spec, "Pulling manifests"); a CDN that it redirects to only
    says how long it is.
    """
    digest = (response.get(b"docker-content-digest") or b"").decode("latin-1")
    if is_digest(digest):
        named = target.kind is Kind.TAG or digest == target.reference
        return Evidence.CLEAR if named else Evidence.NONE
    media_type = (response.get(b"content-type") or b"").partition(b";")[0].strip().decode("latin-1").lower()
    if target.kind is not Kind.BLOB and media_type in MANIFEST_TYPES:
        return Evidence.CLEAR
    length = response.get(b"content-length")
    if target.kind is Kind.TAG or length is None or media_type.startswith("text/"):
        return Evidence.NONE
    if size is None:
        return Evidence.WEAK if target.kind is Kind.BLOB else Evidence.NONE
    return Evidence.CLEAR if length == b"%d" % size else Evidence.NONE
