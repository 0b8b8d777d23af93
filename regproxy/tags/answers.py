"""An origin's answers about a tag, and their JSON form, by which other processes get them.

The four kinds of answer are told apart by their keys in JSON. These must not change: workers of another
version may share the directory. JSON that can't be read counts as no answer, and the origin is asked again.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from msgspec import Struct

from regproxy.core.errors import Busy, CircuitOpen, RateLimited, UpstreamError
from regproxy.fill.download import failure, word_for
from regproxy.fill.fill import UpstreamAnswer
from regproxy.http.messages import Framing, Response
from regproxy.http.origin import Origin
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.registry.targets import is_digest

_NOT_SHARED: Final = frozenset({b"set-cookie", b"set-cookie2"})


class TagAnswer(Struct, frozen=True):
    """The answer to a HEAD. `address`: the servers that were asked (`http.hops`); `seconds`: until its head;
    `began`: when the HEAD was sent, monotonic.

    `direct`: the registry itself has answered, not a server that it redirects to. `asker`: see
    Revalidations.asker().
    """

    response: Response
    address: str
    seconds: float
    began: float
    direct: bool
    asker: str

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def digest(self) -> str:
        """The tag's digest; "" where the origin sent none, one of another algorithm, or a status but 200."""
        said = (self.response.get(b"docker-content-digest") or b"").decode("latin-1")
        return said if self.status == 200 and is_digest(said) else ""

    @property
    def media_type(self) -> str:
        """The manifest's media type, or "" where the origin named none that we know."""
        said = (self.response.get(b"content-type") or b"").decode("latin-1")
        media_type = said.partition(";")[0].strip().lower()
        return media_type if media_type in MANIFEST_TYPES else ""

    @property
    def size(self) -> int:
        """The manifest's length, 0 where the origin did not say."""
        said = self.response.get(b"content-length") or b""
        return int(said) if said.isdigit() else 0


class TagContent(Struct, frozen=True):
    """The content of a tag, fetched and stored. Times and `address`: as in TagAnswer."""

    digest: str
    media_type: str
    address: str
    seconds: float
    began: float


class TagRefusal(Struct, frozen=True):
    """An origin's error answer to a GET or HEAD; it holds only for clients with the same `asker` mark."""

    response: Response
    body: bytes
    began: float
    asker: str

    def error(self, origin: Origin) -> UpstreamError:
        """Return the error that the process which asked has raised."""
        return UpstreamAnswer(self.response, self.body, origin)


class TagFailure(Struct, frozen=True):
    """Why there was no usable answer. `word`: see download.failure(); `began`: monotonic."""

    word: str
    reason: str
    began: float

    def error(self) -> UpstreamError:
        """Return the error that the process which asked has raised."""
        return failure(self.word, self.reason)


SharedAnswer = TagAnswer | TagContent | TagRefusal | TagFailure


def failed_answer(error: UpstreamError, began: float, asker: str) -> TagRefusal | TagFailure | None:
    """Return a failure to share with equal requests of other processes; None: each finds out by itself."""
    if isinstance(error, RateLimited | CircuitOpen | Busy):
        # No origin was asked, and the error must keep its type.
        return None
    if isinstance(error, UpstreamAnswer):
        return TagRefusal(error.response, error.body, began, asker)
    return TagFailure(word_for(error), str(error), began)


def to_json(answer: SharedAnswer) -> dict[str, Any]:
    """Return an answer in JSON's types; its keys show which kind it is."""
    match answer:
        case TagAnswer(response, address, seconds, began, direct, asker):
            said = {"address": address, "seconds": seconds, "began": began, "direct": direct, "asker": asker}
            return _said(response) | said
        case TagContent(digest, media_type, address, seconds, began):
            found = {"digest": digest, "type": media_type}
            return found | {"address": address, "seconds": seconds, "began": began}
        case TagRefusal(response, body, began, asker):
            encoded = base64.b64encode(body).decode()
            return _said(response) | {"body": encoded, "began": began, "asker": asker}
        case TagFailure(word, reason, began):
            return {"word": word, "reason": reason, "began": began}


def from_json(said: dict[str, Any] | None) -> SharedAnswer | None:
    """Return the answer that to_json() was given; None: there is none, or this version can't read it."""
    if said is None:
        return None
    try:
        if "word" in said:
            return TagFailure(said["word"], said["reason"], float(said["began"]))
        if "digest" in said:
            found = said["digest"], said["type"], said["address"]
            return TagContent(*found, float(said["seconds"]), float(said["began"]))
        if "body" in said:
            body = base64.b64decode(said["body"])
            response = _response(said, Framing("length", len(body)))
            return TagRefusal(response, body, float(said["began"]), said["asker"])
        response = _response(said, Framing("none", 0))
        times = float(said["seconds"]), float(said["began"])
        return TagAnswer(response, said["address"], *times, said["direct"], said["asker"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _said(response: Response) -> dict[str, Any]:
    kept = (field for field in response.headers if field[0] not in _NOT_SHARED)
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept]
    return {"status": response.status, "headers": headers}


def _response(said: dict[str, Any], framing: Framing) -> Response:
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in said["headers"])
    return Response(said["status"], b"", 1, headers, framing, True)
