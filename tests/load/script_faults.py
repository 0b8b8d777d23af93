"""What goes wrong in scripts.py, and with what: things to pull, and bad answers that are given first."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, deque
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.byte_streams import End
from tests.support.client import Reply
from tests.support.images import Image, digest_of
from tests.support.origin import Answer, Origin, Seen, blob_answer, manifest_answer, redirect
from tests.support.proxy import STATUS

MIB = 1 << 20
SIZES = (900, 60_000, 400_000, 5 * MIB, 18 * MIB)  # in memory, verified first, linear, scattered, with gaps
NOISE = random.Random("stumbles").randbytes(SIZES[-1])
CDN = "cdn.test"


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad answer. `at`: where in the body, as a share of it; `number`: a status, or how often."""

    kind: str
    at: float = 0.5
    end: End = End.FIN
    number: int = 0

    @property
    def spoils(self) -> bool:
        """Whether a wrong byte or length looks right: of ranges before the end neither is verified."""
        return self.kind in ("wrong", "longer", "shorter", "page")


ENDS = st.sampled_from(End)
SHARES = st.integers(0, 1000).map(lambda number: number / 1000)
STATUSES = (400, 401, 403, 404, 408, 416, 429, 500, 502, 503, 504)
FAULTS = st.one_of(
    st.builds(Fault, st.just("cut"), SHARES, ENDS),
    st.builds(Fault, st.sampled_from(("stall", "stall and cut")), SHARES, ENDS),
    st.builds(Fault, st.just("wrong"), SHARES),
    st.builds(Fault, st.sampled_from(("whole", "slow", "chunked", "longer", "shorter", "page", "garbage"))),
    st.builds(Fault, st.just("no head"), end=ENDS),
    st.builds(Fault, st.just("status"), number=st.sampled_from(STATUSES)),
    st.builds(Fault, st.just("redirect"), number=st.integers(0, 3)),
)


class Thing:
    """Something that can be pulled by path. `faults` are the next answers; behind them all is well."""

    def __init__(self, path: str, body: bytes) -> None:
        self.path = path
        self.body = body
        self.faults: deque[Fault] = deque()
        self.spoilt = False

    def good(self, **options: object) -> Answer:
        """It, as registries send it."""
        return blob_answer(digest_of(self.body), self.body, **options)

    def allows(self, said: Reply, since: int) -> bool:
        """Whether this is an answer to who has asked when `since` was the newest."""
        return said.body == self.body


class Blob(Thing):
    def __init__(self, number: int, size: int) -> None:
        name = f"scripts {os.getpid()} {number} ".encode()
        body = name + NOISE[: size - len(name)]
        super().__init__(f"/v2/app/blobs/{digest_of(body)}", body)


class Manifest(Thing):
    def __init__(self, image: Image) -> None:
        super().__init__(f"/v2/app/manifests/{image.digest}", image.manifest)
        self.image = image

    def good(self, **options: object) -> Answer:
        return manifest_answer(self.image, **options)


class Tag(Thing):
    """`images`: what it has been, the newest last."""

    def __init__(self, number: int, image: Image) -> None:
        super().__init__(f"/v2/app/manifests/v{number}", image.manifest)
        self.images = [image]

    def move(self, image: Image) -> None:
        self.images.append(image)
        self.body = image.manifest

    def good(self, **options: object) -> Answer:
        return manifest_answer(self.images[-1], **options)

    def allows(self, said: Reply, since: int) -> bool:
        first = 0 if said.get(STATUS) == "STALE" else since
        return said.body in [image.manifest for image in self.images[first:]]


class Stage:
    """Where the scripts are played. `go` lets go on what stalls, `stalled` says that something does.

    `faults` counts those that have come to pass.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.go, self.stalled = threading.Event(), threading.Event()
        self.faults: Counter[str] = Counter()

    def publish(self, thing: Thing) -> None:
        self.origin.on(thing.path, Script(self, thing))


class Script:
    """What the origin says of a thing."""

    def __init__(self, stage: Stage, thing: Thing) -> None:
        self._stage, self._thing = stage, thing
        self._uses: Counter[str] = Counter()

    def __call__(self, seen: Seen) -> Answer:
        thing = self._thing
        try:
            fault = thing.faults.popleft()
        except IndexError:
            return thing.good()
        self._stage.faults[fault.kind] += 1
        return self._bad(fault, seen)

    def _bad(self, fault: Fault, seen: Seen) -> Answer:
        thing, stage = self._thing, self._stage
        size = len(thing.body)
        at = int(fault.at * (_span(seen, size) - 1))
        match fault.kind:
            case "cut":
                return thing.good(cut_at=at, cut=fault.end)
            case "stall":
                stage.stalled.set()
                return thing.good(hold_at=at, hold=stage.go)
            case "stall and cut":
                stage.stalled.set()
                return thing.good(hold_at=at, hold=stage.go, cut_at=at, cut=fault.end)
            case "wrong":
                return thing.good(wrong_at=int(fault.at * (size - 1)))
            case "whole":
                return thing.good(ranges=False)
            case "slow":
                return thing.good(rate=max(size / 2, 10_000))
            case "chunked":
                return thing.good(framing="chunked")
            case "longer":
                return Answer(thing.body + b"x", headers=thing.good().headers)
            case "shorter":
                return thing.good(declared=size + 1, ranges=False)
            case "page":
                return Answer(b"<html>Sign in</html>", headers={"Content-Type": "text/html"})
            case "garbage":
                return Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Le")
            case "no head":
                return Answer(cut_at=-1, cut=fault.end)
            case "status":
                again = {"Retry-After": "1"} if fault.number in (429, 503) else {}
                return Answer(b'{"errors":[]}', fault.number, again)
            case "redirect":
                return self._redirect(fault.number)
        raise AssertionError(fault)

    def _redirect(self, uses: int) -> Answer:
        """To a URL that is signed for a few requests."""
        stage, name = self._stage, f"/cdn/{len(self._uses)}{self._thing.path}"
        self._uses[name] = uses

        def cdn(seen: Seen) -> Answer:
            self._uses[name] -= 1
            if self._uses[name] < 0:
                return Answer(b"<Error><Code>AccessDenied</Code></Error>", 403)
            return self(seen)

        stage.origin.on(name, cdn)
        return redirect(f"https://{CDN}:{stage.origin.port}{name}?X-Amz-Signature=secret")


def _span(seen: Seen, size: int) -> int:
    """How many bytes an answer has."""
    first, _, last = (seen.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")
    return max(1, min(int(last or size) + 1, size) - int(first or 0))
