"""What an origin has said of a tag, as it is told to other processes: JSON in the claim's file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from regproxy.core.errors import Busy, CircuitOpen, RateLimited, UpstreamError
from regproxy.fill.download import failure, word_for
from regproxy.fill.fill import UpstreamAnswer
from regproxy.http.messages import Framing, Response
from regproxy.http.origin import Origin
from regproxy.registry.targets import MANIFEST_TYPES, is_digest

_NOT_SHARED: Final = frozenset({b"set-cookie", b"set-cookie2"})


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer to a HEAD. `address`: who gave it, after `seconds`; `began`: monotonic, when it was asked.

    `direct`: the registry itself has said so, and nobody that it redirects to. `asker`: see TagClaims.mark().
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
        """What the tag is; "" where the origin did not say, or by another algorithm."""
        said = (self.response.get(b"docker-content-digest") or b"").decode("latin-1")
        return said if self.status == 200 and is_digest(said) else ""

    @property
    def media_type(self) -> str:
        """A manifest's type, or "" where the origin named none that we know."""
        said = (self.response.get(b"content-type") or b"").decode("latin-1")
        media_type = said.partition(";")[0].strip().lower()
        return media_type if media_type in MANIFEST_TYPES else ""

    @property
    def size(self) -> int:
        """The manifest's length, 0 where the origin did not say."""
        said = self.response.get(b"content-length") or b""
        return int(said) if said.isdigit() else 0

    def as_json(self) -> dict[str, Any]:
        return {
            **_said(self.response),
            "address": self.address,
            "seconds": self.seconds,
            "began": self.began,
            "direct": self.direct,
            "asker": self.asker,
        }


def as_seen(answer: dict[str, Any]) -> Seen:
    """The opposite of Seen.as_json(); the error where it was none. Raises UpstreamError."""
    if "status" not in answer:
        raise failure(answer["word"], answer["reason"])
    response = _response(answer, Framing("none", 0))
    return Seen(response, *(answer[name] for name in ("address", "seconds", "began", "direct", "asker")))


def failed_answer(error: UpstreamError, began: float, asker: str) -> dict[str, Any] | None:
    """A failure as those get it who asked the same meanwhile; None: that is for each process to find.

    A refusal is for those alone who are like the `asker`.
    """
    if isinstance(error, RateLimited | CircuitOpen | Busy):
        # Nobody was asked, and it is to be told as what it is.
        return None
    if not isinstance(error, UpstreamAnswer):
        return {"word": word_for(error), "reason": str(error), "began": began}
    body = base64.b64encode(error.body).decode()
    return {**_said(error.response), "body": body, "began": began, "asker": asker}


def as_failure(answer: dict[str, Any], origin: Origin) -> UpstreamError:
    """The opposite of failed_answer()."""
    if "status" not in answer:
        return failure(answer["word"], answer["reason"])
    body = base64.b64decode(answer["body"])
    return UpstreamAnswer(_response(answer, Framing("length", len(body))), body, origin)


def _said(response: Response) -> dict[str, Any]:
    kept = (field for field in response.headers if field[0] not in _NOT_SHARED)
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept]
    return {"status": response.status, "headers": headers}


def _response(answer: dict[str, Any], framing: Framing) -> Response:
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"])
    return Response(answer["status"], b"", 1, headers, framing, True)
