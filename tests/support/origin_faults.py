"""What an origin does wrong, and the origin that does it: for tables of faults.

A fault begins with `first`, once or every time; what is said `later` in the second case keeps the content
from ever being complete. Breaks within a body come when the proxy has all that was sent before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.support.byte_streams import End
from tests.support.fake_dns import SimulatedNames
from tests.support.origin import Answer, Origin, Script, Seen, redirect
from tests.support.trust import Trust

TOKEN = "Bearer renewed"


class Stage(StrEnum):
    """Where in a download a fault is."""

    DIAL = "no connection"
    TLS = "no TLS"
    HEAD = "no head"
    LATE = "no head in time"
    STUMBLE = "a stumble"
    STATUS = "a status"
    DENIED = "a refusal"
    BODY = "within the body"
    WHOLE = "no ranges"
    ACCESS = "no access any more"
    LENGTH = "another length"
    WRONG = "wrong bytes"


@dataclass(frozen=True, slots=True)
class Content:
    """Something to ask for. `at`: how much of the first answer's body comes before a break; `start`: where
    that begins in the content. `wrong`: the offset of a byte to send wrong.
    """

    path: str
    digest: str
    body: bytes
    media_type: str
    at: int
    start: int = 0
    wrong: int = 0

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'

    def answer(self, *, body: bytes | None = None, etag: str | None = None, **faults: object) -> Answer:
        """It, as registries send it, or as they do not."""
        headers = {
            "Content-Type": self.media_type,
            "Docker-Content-Digest": self.digest,
            "Etag": etag or self.etag,
        }
        return Answer(self.body if body is None else body, headers=headers, **faults)  # type: ignore[arg-type]


@dataclass(slots=True)
class Cues:
    """`go`: the proxy has what was sent, the break may come; `never` comes when the row is over."""

    go: threading.Event = field(default_factory=threading.Event)
    never: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Fault:
    """`first` is what is wrong; `rest`: what follows a first answer that was cut; `later`: for ever."""

    name: str
    stage: Stage
    first: Callable[[Content, Cues], Script] | None = None
    rest: Callable[[Content, Cues], tuple[Script, ...]] = lambda content, cues: ()
    later: Callable[[Content, Cues], Script] | None = None
    status: int = 0

    def scripts(self, content: Content, cues: Cues, *, ever: bool) -> tuple[Script, ...]:
        """What is said to one request after another; the last one again and again."""
        if self.first is None:
            return (content.answer(),)
        first = self.first(content, cues)
        if not ever:
            return (first, *self.rest(content, cues), content.answer())
        return (first, self.later(content, cues) if self.later is not None else first)


def cut(end: End) -> Callable[[Content, Cues], Answer]:
    """The body breaks where the proxy has `at` bytes of it."""
    return lambda content, cues: content.answer(
        hold_at=content.at, hold=cues.go, cut_at=content.at + 1, cut=end
    )


def nothing(end: End) -> Callable[[Content, Cues], Answer]:
    """A head, and a break behind it."""
    return lambda content, cues: content.answer(cut_at=0, cut=end)


def status(code: int, **headers: str) -> Callable[[Content, Cues], Answer]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda content, cues: Answer(b"", code, fields)


def no_range(content: Content, cues: Cues, *, whole: Answer) -> Script:
    """416 to every range."""
    refusal = Answer(b"", 416, {"Content-Range": f"bytes */{len(content.body)}"}, ranges=False)
    return lambda seen: refusal if seen.get("range") else whole


def renewed(content: Content, cues: Cues) -> Script:
    """Only with a token that the client does not have."""
    challenge = {"Www-Authenticate": 'Bearer realm="TOKENS",service="test",scope="repository:app:pull"'}

    def script(seen: Seen) -> Answer:
        if seen.get("authorization") == TOKEN:
            return content.answer()
        host = seen.get("host") or ""
        value = challenge["Www-Authenticate"].replace("TOKENS", f"https://{host}/token")
        return Answer(b"", 401, {"Www-Authenticate": value})

    return script


def longer(content: Content, cues: Cues) -> Answer:
    return content.answer(body=content.body + b"x")


BASIC = {"Www-Authenticate": 'Basic realm="test"'}

FAULTS = (
    Fault("refused", Stage.DIAL),
    Fault("no such name", Stage.DIAL),
    Fault("untrusted", Stage.TLS),
    Fault("reset before the head", Stage.HEAD, lambda c, q: Answer(cut_at=-1, cut=End.RST)),
    Fault("silent before the head", Stage.LATE, lambda c, q: Answer(hold_at=-1, hold=q.never)),
    Fault("429", Stage.STATUS, status(429), status=429),
    Fault("429 for a second", Stage.STATUS, status(429, Retry_After="1"), status=429),
    *(Fault(str(code), Stage.STUMBLE, status(code), status=code) for code in (500, 502, 503, 504)),
    Fault("401", Stage.DENIED, lambda c, q: Answer(b"", 401, BASIC), status=401),
    Fault(
        "silent",
        Stage.BODY,
        lambda c, q: c.answer(hold_at=c.at, hold=q.never),
        later=lambda c, q: c.answer(hold_at=0, hold=q.never),
    ),
    Fault("reset", Stage.BODY, cut(End.RST), later=nothing(End.RST)),
    Fault("short", Stage.BODY, cut(End.FIN), later=nothing(End.FIN)),
    Fault("closed early", Stage.BODY, cut(End.CLOSE_NOTIFY), later=nothing(End.CLOSE_NOTIFY)),
    Fault("slow", Stage.BODY, lambda c, q: c.answer(rate=1_500)),
    Fault("restarts", Stage.BODY, lambda c, q: c.answer(hold_at=c.at, hold=q.never)),
    Fault(
        "200 to a range",
        Stage.WHOLE,
        cut(End.RST),
        rest=lambda c, q: (c.answer(ranges=False),),
        later=lambda c, q: c.answer(ranges=False, cut_at=c.at, cut=End.RST),
    ),
    Fault(
        "416 to a range",
        Stage.WHOLE,
        cut(End.RST),
        rest=lambda c, q: (no_range(c, q, whole=c.answer()),),
        later=lambda c, q: no_range(c, q, whole=c.answer(cut_at=c.at, cut=End.RST)),
    ),
    Fault("expired", Stage.ACCESS),
    Fault(
        "401 to a range",
        Stage.ACCESS,
        cut(End.RST),
        rest=lambda c, q: (renewed(c, q), renewed(c, q)),
        later=lambda c, q: Answer(b"", 401, BASIC),
        status=401,
    ),
    *(
        Fault(
            f"{code} to a range",
            Stage.ACCESS,
            cut(End.RST),
            rest=lambda c, q, code=code: (status(code, Retry_After="1")(c, q),),  # type: ignore[misc]
            later=status(code, Retry_After="1"),
            status=code,
        )
        for code in (429, 503)
    ),
    Fault("another length", Stage.LENGTH, cut(End.RST), rest=lambda c, q: (longer(c, q),), later=longer),
    Fault("wrong bytes", Stage.WRONG, lambda c, q: c.answer(wrong_at=c.wrong)),
)


class Doubtful(Origin):
    """Shows another's certificate first: so many times."""

    def __init__(self, trust: Trust, *names: str, other: Trust, times: float, **options: Any) -> None:
        self._other, self._times = other.server_context(*names), times
        super().__init__(trust, *names, **options)

    def _note_name(self, tls: Any, name: str | None, context: object) -> None:
        if self._times > 0:
            self._times -= 1
            tls.context = self._other
        super()._note_name(tls, name, context)


class Site:
    """An origin that comes and goes, at one address. `seen` are the requests to all that were there.

    `cdn`, where there is one, is who it redirects blobs to.
    """

    def __init__(self, trust: Trust, name: str, address: tuple[str, int], names: SimulatedNames | None):
        self.name, self.address = name, address
        self._trust, self._names = trust, names
        self._origin: Origin | None = None
        self._before: list[Seen] = []
        self.cdn: Site | None = None

    @property
    def authority(self) -> str:
        return f"{self.name}:{self.address[1]}"

    @property
    def named(self) -> bool:
        """Whether its name is the test's to tell."""
        return self._names is not None

    @property
    def present(self) -> bool:
        """Whether it is up."""
        return self._origin is not None

    @property
    def origin(self) -> Origin:
        assert self._origin is not None
        return self._origin

    @property
    def seen(self) -> list[Seen]:
        """In the order of their arrival, the CDN's behind them."""
        now = list(self._origin.requests) if self._origin is not None else []
        return [*self._before, *now, *(self.cdn.seen if self.cdn is not None else ())]

    @property
    def sent(self) -> int:
        """Body bytes that were answered."""
        return sum(seen.sent for seen in self.seen)

    def up(self, other: Trust | None = None, times: float = 0) -> Origin:
        """Be there from now on; so many times with a certificate that the other one has issued."""
        self.tell(True)
        if other is not None:
            self._origin = Doubtful(self._trust, self.name, other=other, times=times, address=self.address)
        else:
            self._origin = Origin(self._trust, self.name, address=self.address)
        self._origin.on("/token", Answer(json.dumps({"token": TOKEN.split()[1], "expires_in": 300}).encode()))
        return self._origin

    def tell(self, found: bool) -> None:
        """Have its name resolve, or not."""
        if self._names is not None:
            self._names.tell(self.name, self.address[0] if found else None)

    def down(self) -> None:
        """Be gone: everything that is open ends, and connections are refused."""
        origin, self._origin = self._origin, None
        if origin is not None:
            origin.close()
            self._before += origin.requests

    def close(self) -> None:
        self.down()
        if self.cdn is not None:
            self.cdn.close()

    def sign(self, content: Content, cues: Cues, *, ever: bool) -> None:
        """Redirect to URLs of which the first expires when half of the content has come; `ever`: all do."""
        assert self.cdn is not None
        cdn, count = self.cdn, iter(range(1, 1 << 30))
        first = cut(End.RST)(content, cues)
        used: list[str] = []

        def blob(seen: Seen) -> Answer:
            used.append(seen.target)
            if len(used) == 1:
                return first
            if ever or seen.target == used[0]:
                return Answer(b"<Error/>", 403, {"Content-Type": "application/xml"})
            return content.answer()

        cdn.origin.on("/data", blob)
        self.origin.on(
            content.path, lambda seen: redirect(f"https://{cdn.authority}/data?signed={next(count)}")
        )
