"""Clients of scripts.py: of what they want they read all, or some and leave, and know what is right."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.load.script_faults import SHARES, Blob, Tag, Thing
from tests.support.client import Client, NotHttp, Reply
from tests.support.images import INDEX, MANIFEST
from tests.support.proxy import Proxy

HOLD_BACK = 16_384
PATIENCE = 60.0  # seconds until a pull must have ended, however it does
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass
class Tally:
    """What has happened. `lost`: clients whose worker died; `answers` by what they were."""

    examples: int = 0
    pulls: int = 0
    lost: int = 0
    left: int = 0
    kills: int = 0
    restarts: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        answers = ", ".join(f"{word} {count}" for word, count in self.answers.most_common())
        faults = ", ".join(f"{word} {count}" for word, count in self.faults.most_common())
        return (
            f"{self.examples} examples, {self.pulls} pulls: {answers}; {self.left} left, {self.lost} lost; "
            f"{self.kills} workers killed, {self.restarts} restarts; faults: {faults}"
        )


@dataclass(frozen=True, slots=True)
class Manner:
    """How one client pulls. `span`: what part of it, as shares, or all of it; `open`: to the end, as it says.

    `leaves`: behind what share of what it has asked for.
    """

    span: tuple[float, float] | None = None
    open: bool = False
    leaves: float | None = None
    resets: bool = False

    def range(self, size: int) -> tuple[int, int] | None:
        if self.span is None or size == 0:
            return None
        first, last = sorted(int(share * (size - 1)) for share in self.span)
        return first, size if self.open else last + 1


CLIENTS = st.lists(
    st.builds(
        Manner,
        span=st.none() | st.tuples(SHARES, SHARES),
        open=st.booleans(),
        leaves=st.none() | st.none() | SHARES,
        resets=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


class Pull:
    """One client's pull of a thing; what is wrong with what it gets is `wrong`."""

    def __init__(self, proxy: Proxy, host: str, thing: Thing, how: Manner, tally: Tally) -> None:
        self.wrong = ""
        self._proxy, self._host, self._thing, self._how, self._tally = proxy, host, thing, how, tally
        self._since = len(thing.images) - 1 if isinstance(thing, Tag) else 0
        self._strict = not thing.spoilt
        self._range = how.range(len(thing.body)) if isinstance(thing, Blob) else None
        self.whole = False

    def run(self) -> None:
        try:
            with self._proxy.client(self._host, timeout=PATIENCE) as client:
                self._run(client)
        except TimeoutError:
            self.wrong = f"hangs: {self}"
        except NotHttp as error:
            self.wrong = f"is no HTTP: {self}: {error}"
        except (OSError, AssertionError):
            # Its worker was killed, or the proxy has just ended.
            self._tally.lost += 1

    def __str__(self) -> str:
        return f"{self._thing.path} {self._range or ''} {self._how}"

    def _run(self, client: Client) -> None:
        headers = list(ACCEPT)
        if self._range is not None:
            first, stop = self._range
            headers.append(("Range", f"bytes={first}-{'' if self._how.open else stop - 1}"))
        client.ask("GET", self._thing.path, headers)
        if self._how.leaves is not None:
            self._leave(client)
            return
        reply = client.read_reply()
        if not reply.complete or reply.status not in (200, 206):
            self._tally.answers["cut" if reply.status in (0, 200, 206) else str(reply.status)] += 1
            return
        self._tally.answers["complete"] += 1
        if reply.status == 200:
            self.whole = True
            if not self._thing.allows(reply, self._since):
                self.wrong = f"{len(reply.body)} bytes are not it: {self}: {reply.headers}"
        else:
            self._check_range(reply)

    def _check_range(self, reply: Reply) -> None:
        body = self._thing.body
        match = CONTENT_RANGE.fullmatch(reply.get("Content-Range") or "")
        if match is None or self._range is None:
            self.wrong = f"206: {self}: {reply.headers}"
            return
        first, last, total = map(int, match.groups())
        # The end is held back until all of it is verified; what is before it is not.
        if not self._strict and last < len(body) - HOLD_BACK:
            return
        wanted = (self._range[0], self._range[1] - 1, len(body))
        if (first, last, total) != wanted or reply.body != body[first : last + 1]:
            self.wrong = f"206 of bytes that are not it: {self}: {reply.headers}"

    def _leave(self, client: Client) -> None:
        """Read some of it, and go; as browsers, runtimes and people do."""
        head = client.read_head()
        # As it comes: in chunks nothing of it can be told from their sizes.
        data = client.read(int((self._how.leaves or 0) * int(head.get("Content-Length") or 0)))
        self._tally.left += 1
        if self._how.resets:
            client.reset()
        if head.status in (200, 206) and self._strict and isinstance(self._thing, Blob):
            start = self._range[0] if self._range is not None and head.status == 206 else 0
            if data != self._thing.body[start : start + len(data)]:
                self.wrong = f"begins with other bytes: {self}"
