"""What a client has changed in a repository (OCI distribution spec, "Push" and "Content Management")."""

from __future__ import annotations

from urllib.parse import parse_qs

from msgspec import Struct

from regproxy.http.messages import Request, Response
from regproxy.registry.targets import Kind, Target, is_digest, is_tag


class Change(Struct, frozen=True):
    """Tags that were set or deleted, and content that is now in the repository, or (`deleted`) no longer.

    "": none, or not known.
    """

    tags: tuple[str, ...] = ()
    digest: str = ""
    deleted: bool = False


def change_of(request: Request, target: Target, response: Response) -> Change | None:
    """Return what a request has changed, by its answer; None: nothing that a cache has to know."""
    method, kind, status = request.method, target.kind, response.status
    if not 200 <= status < 400:
        return None
    if method == "DELETE":
        if kind is Kind.TAG:
            return Change((target.reference,))
        return Change(digest=target.reference, deleted=True) if kind in (Kind.BLOB, Kind.MANIFEST) else None
    if method == "PUT" and kind is Kind.TAG:
        return Change((target.reference,), _told(response) if status == 201 else "")
    if status != 201:
        return None
    if method == "PUT" and kind is Kind.MANIFEST:
        stored = _stored(target.reference, response)
        return Change(_tags(request.path), stored.digest if stored is not None else "")
    if kind is Kind.UPLOAD and method in ("PUT", "POST"):
        # The end of an upload, all of it in one request, or a mount from another repository.
        return _stored(_asked(request.path), response)
    return None


def _stored(asked: str, response: Response) -> Change | None:
    """Return what is in the repository now; None where the registry names another digest than the client."""
    told = _told(response)
    if asked and told and asked != told:
        return None
    return Change(digest=asked or told) if asked or told else None


def _tags(path: str) -> tuple[str, ...]:
    """Return the tags that a push of a manifest by digest sets (`?tag=`, in the specification after 1.1)."""
    values = parse_qs(path.partition("?")[2]).get("tag") or ()
    return tuple(dict.fromkeys(value for value in values if is_tag(value)))


def _told(response: Response) -> str:
    said = (response.get(b"docker-content-digest") or b"").decode("latin-1")
    return said if is_digest(said) else ""


def _asked(path: str) -> str:
    query = parse_qs(path.partition("?")[2])
    said = query.get("digest") or query.get("mount") or []
    # Given twice, it is for the registry to say which one counts.
    return said[0] if len(said) == 1 and is_digest(said[0]) else ""
