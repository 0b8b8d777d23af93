"""An upstream that stumbles fails no pull: every fault, for every kind of content, once and for ever.

What is expected of a row is computed from this table. "First, then well" is what clients see when the
origin does it once; "always" when it goes on with it.

    stage                    first, then well               always            left on disk
    no connection            whole, or an error             an error          nothing
    no TLS                   whole                          an error          nothing
    no head                  whole                          an error          nothing
    no head in time          an error                       an error          nothing
    a stumble (50x)          whole                          that status       nothing
    a status (429)           that status                    that status       nothing
    a refusal (401)          that status                    that status       nothing
    within the body          whole, the rest was asked for  broken off        the part
    no ranges                whole, all was asked for       broken off        the part
    no access any more       whole, the rest was asked for  broken off        the part
    another length           whole, all was asked for       broken off        nothing
    wrong bytes              broken off                     broken off        nothing

"Broken off" is a connection that is cut where the client has had something already, else an error. After a
connection that failed, another one is made at once, and no third: it depends on when all is well again.

A tag is asked for anew instead of resumed, and nothing of it is left. One that is held is answered by the
old copy where something is wrong with the registry at the first request, or always. A range is whole where
the wrong bytes are elsewhere. Once all is well the content is had at the next attempt, without what is
there.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import cast

import pytest

from tests.support import fake_dns
from tests.support.client import Reply
from tests.support.fake_dns import SimulatedNames
from tests.support.images import MANIFEST, digest_of
from tests.support.origin import Origin, Seen
from tests.support.origin_faults import FAULTS, Content, Cues, Fault, Site, Stage
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

MIB = 1 << 20
BLOCK = 65_536
SMALL, LARGE, MANIFEST_SIZE = 300_000, 9 * MIB, 60_000
SPAN = (5 * MIB + 1000, 7 * MIB)  # what is asked for of a large blob, and from where it is fetched
FIRST_SPAN = f"bytes={5 * MIB}-{13 * MIB - 1}"
MANY = 20
AT_A_TIME = 8  # rows, most of which wait for something
REQUESTS_MAX = 20  # of one row; pauses grow, and the time is short
SECONDS = 40.0  # until a client is taken to hang
ACCEPT = [("Accept", MANIFEST)]
DOMAIN = "absorb.test"
COMMON = {
    "PROXY_READ_TIMEOUT": "1s",
    "PROXY_CONNECT_TIMEOUT": "2s",
    "REGPROXY_MIN_RATE": "10k",
    "REGPROXY_MIN_RATE_TIME": "1500ms",
    "ENABLE_MANIFEST_CACHE": "false",
}
# Patient where it has to end well, not so where it can't.
RESUME = {False: "20s", True: "1s"}

_NOISE = random.Random(71).randbytes(LARGE)


class Shape(Enum):
    """What is asked for. A body that is `followed` goes out while it comes in."""

    SMALL = "small"
    LARGE = "large"
    RANGE = "range"
    MANIFEST = "manifest"
    TAG = "tag"
    HELD = "held tag"

    @property
    def followed(self) -> bool:
        return self in (Shape.SMALL, Shape.LARGE, Shape.RANGE)

    @property
    def tagged(self) -> bool:
        return self in (Shape.TAG, Shape.HELD)


class Gets(Enum):
    """What a client has in the end."""

    WHOLE = auto()
    EITHER = auto()  # that or an error
    OLD = auto()  # the copy of the tag that is held
    STATUS = auto()  # the origin's own
    ERROR = auto()  # ours, before anything of the content
    CUT = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """`once`, `ever`: what clients get; `left`: whether what has come stays for the next."""

    once: Gets
    ever: Gets
    left: bool = False


RULES = {
    Stage.DIAL: Rule(Gets.EITHER, Gets.ERROR),
    Stage.TLS: Rule(Gets.WHOLE, Gets.ERROR),
    Stage.HEAD: Rule(Gets.WHOLE, Gets.ERROR),
    Stage.LATE: Rule(Gets.ERROR, Gets.ERROR),
    Stage.STUMBLE: Rule(Gets.WHOLE, Gets.STATUS),
    Stage.STATUS: Rule(Gets.STATUS, Gets.STATUS),
    Stage.DENIED: Rule(Gets.STATUS, Gets.STATUS),
    Stage.BODY: Rule(Gets.WHOLE, Gets.CUT, left=True),
    Stage.WHOLE: Rule(Gets.WHOLE, Gets.CUT, left=True),
    Stage.ACCESS: Rule(Gets.WHOLE, Gets.CUT, left=True),
    Stage.LENGTH: Rule(Gets.WHOLE, Gets.CUT),
    Stage.WRONG: Rule(Gets.CUT, Gets.CUT),
}
ALL_AGAIN = (Stage.WHOLE, Stage.LENGTH)  # what is there comes a second time
EARLY = (Stage.DIAL, Stage.TLS, Stage.HEAD, Stage.LATE, Stage.STUMBLE, Stage.STATUS)


@dataclass(frozen=True, slots=True)
class Row:
    fault: Fault
    shape: Shape
    ever: bool
    clients: int

    def __str__(self) -> str:
        much = "always" if self.ever else "once"
        return f"{self.fault.name}-{self.shape.value}-{much}-{self.clients}"

    @property
    def gets(self) -> Gets:
        stage, rule = self.fault.stage, RULES[self.fault.stage]
        if self.shape is Shape.HELD:
            if stage in EARLY or (self.ever and stage is not Stage.DENIED):
                return Gets.OLD
            if not self.ever:
                return Gets.WHOLE  # a HEAD was refused, or the digest it named: the tag itself was asked for
        if self.shape is Shape.RANGE and stage is Stage.WRONG:
            return Gets.WHOLE
        found = rule.ever if self.ever else rule.once
        return Gets.ERROR if found is Gets.CUT and not self.shape.followed else found

    @property
    def kept(self) -> bool:
        """Whether it is in the store after that."""
        return self.gets is Gets.WHOLE and not (self.shape is Shape.RANGE and self.fault.stage is Stage.WRONG)

    @property
    def left(self) -> bool:
        return not self.kept and RULES[self.fault.stage].left and self.shape is not Shape.TAG

    @property
    def breaks(self) -> bool:
        """Whether the proxy is waited for where the first body breaks."""
        stage = self.fault.stage
        return stage in (Stage.BODY, Stage.WHOLE, Stage.ACCESS, Stage.LENGTH) and self.shape is not Shape.TAG


def makes_sense(row: Row) -> bool:
    stage, shape = row.fault.stage, row.shape
    if shape.tagged and stage in (Stage.WHOLE, Stage.ACCESS, Stage.LENGTH):
        return False  # tags are not resumed
    if shape is Shape.MANIFEST and row.fault.name == "expired":
        return False  # registries redirect blobs
    if row.fault.name == "no such name" and shape is Shape.HELD:
        return False  # what it stood for is remembered for a while
    if stage is Stage.LENGTH and shape in (Shape.LARGE, Shape.RANGE) and not row.ever:
        return False  # of several streams one may be wrong
    if row.clients == 1:
        return True
    if shape is Shape.LARGE:
        return not row.ever and row.fault.name in ("silent", "reset", "restarts", "expired", "416 to a range")
    return shape in (Shape.SMALL, Shape.HELD) or (shape is Shape.MANIFEST and row.ever)


ROWS = [
    row
    for fault, shape, ever, clients in itertools.product(FAULTS, Shape, (False, True), (1, MANY))
    if makes_sense(row := Row(fault, shape, ever, clients))
]


def make(number: int, shape: Shape) -> tuple[Content, Content]:
    """The content of a row, and what a tag was before."""
    if shape.followed:
        size = SMALL if shape is Shape.SMALL else LARGE
        body = number.to_bytes(8, "big") + _NOISE[8:size]
        path, start = f"/v2/app/blobs/{digest_of(body)}", 5 * MIB if shape is Shape.RANGE else 0
        at = {Shape.SMALL: SMALL // 2, Shape.LARGE: 3 * MIB, Shape.RANGE: MIB}[shape]
        content = Content(path, digest_of(body), body, "application/octet-stream", at, start, size - 40_000)
        return content, content
    both = []
    for word in ("new", "old"):
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "annotations": {word: f"{number}"}}
        body = json.dumps(value).encode().ljust(MANIFEST_SIZE)
        reference = "latest" if shape.tagged else digest_of(body)
        path = f"/v2/app/manifests/{reference}"
        both.append(Content(path, digest_of(body), body, MANIFEST, MANIFEST_SIZE // 2, 0, 10))
    return both[0], both[1]


@dataclass(slots=True)
class Played:
    """What came of a row."""

    content: Content
    old: Content
    seen: list[Seen]
    sent: int
    kept: bool
    had: int
    """Bytes that were left."""
    state: str = ""
    """As the part's .meta says."""
    again: Reply | None = None
    seen_again: list[Seen] = field(default_factory=list)


class Player:
    """Plays rows, each with an origin of its own, on proxies that they share."""

    def __init__(self, place: Path, trust: Trust, stranger: Trust, rows: list[Row], stack: ExitStack) -> None:
        self._trust, self._stranger, self._stack = trust, stranger, stack
        self._names = None if fake_dns.MISSING else SimulatedNames(place / "names")
        self._sites = {str(row): self._site(number, row) for number, row in enumerate(rows)}
        self.proxies = {
            key: self._proxy(place / f"proxy-{key}", *key)
            for key in sorted({(row.ever, row.clients > 1) for row in rows})
        }

    def _site(self, number: int, row: Row) -> Site:
        unresolved = self._names if row.fault.name == "no such name" else None
        site = Site(self._trust, f"r{number}.{DOMAIN}", free_address(), unresolved)
        if row.fault.name == "expired":
            site.cdn = Site(self._trust, f"cdn{number}.{DOMAIN}", free_address(), None)
        return site

    def _proxy(self, place: Path, ever: bool, many: bool) -> Proxy:
        sites = [each for site in self._sites.values() for each in (site, site.cdn) if each is not None]
        env: dict[str, str | None] = {
            **COMMON,
            "REGPROXY_RESUME_TIME": RESUME[ever],
            "REGPROXY_WORKERS": "2" if many else "1",
            "REGPROXY_FILL_STREAMS": "4" if many else "1",
            "REGPROXY_ALLOW_TARGETS": f"*.{DOMAIN}",
            "REGPROXY_RESOLVE": " ".join(
                f"{site.name}={site.address[0]}" for site in sites if not site.named
            ),
            **(self._names.env if self._names is not None else {}),
        }
        registries = tuple(site.authority for site in sites)
        return self._stack.enter_context(Proxy(place, env, registries=registries, ca=self._trust.path))

    def play(self, row: Row) -> Played:
        site, proxy = self._sites[str(row)], self.proxies[row.ever, row.clients > 1]
        number = [*self._sites].index(str(row))
        with ExitStack() as stack:
            stack.callback(site.close)
            cues = Cues()
            stack.callback(cues.never.set)
            return Play(row, site, proxy, self._stranger, *make(number, row.shape), cues).run()


class Play:
    """One row."""

    def __init__(
        self,
        row: Row,
        site: Site,
        proxy: Proxy,
        stranger: Trust,
        content: Content,
        old: Content,
        cues: Cues,
    ) -> None:
        self._row, self._site, self._proxy, self._stranger = row, site, proxy, stranger
        self._content, self._old, self._cues = content, old, cues
        self._begun = 0

    def run(self) -> Played:
        row, site = self._row, self._site
        if row.shape is Shape.HELD:
            self._hold_old()
        self._begun = len(site.seen)
        with ThreadPoolExecutor(row.clients) as pool:
            begin = threading.Barrier(row.clients + 1)
            clients = [pool.submit(self._ask, begin) for _ in range(row.clients)]
            self._script()
            begin.wait(SECONDS)
            self._go_wrong(clients)
            replies = [client.result() for client in clients]
        for reply in replies:
            check_reply(reply, row, self._content, self._old)
        kept = row.kept and self._wait_kept()
        had, state = self._left()
        seen, sent = site.seen[self._begun :], site.sent
        played = Played(self._content, self._old, seen, sent, kept, had, state)
        if not row.kept:
            self._again(played)
        return played

    # --- the origin --------------------------------------------------------------------------------------

    @property
    def _faulty_path(self) -> str:
        """Of the request that goes wrong."""
        late = self._row.fault.stage not in (*EARLY, Stage.DENIED)
        return self._by_digest if self._row.shape is Shape.HELD and late else self._content.path

    @property
    def _by_digest(self) -> str:
        return f"{self._content.path.rpartition('/')[0]}/{self._content.digest}"

    def _hold_old(self) -> None:
        """Have the proxy hold what the tag was, over a connection that is not kept."""
        self._site.up().on(self._old.path, self._old.answer(close=True))
        assert self._get().digest == self._old.digest
        self._proxy.wait_kept(self._old.digest)
        self._site.down()

    def _script(self) -> None:
        fault, site = self._row.fault, self._site
        if fault.name == "refused":
            return
        if fault.name == "untrusted":
            self._well(site.up(self._stranger, math.inf if self._row.ever else 1))
            return
        self._well(site.up())
        if site.cdn is not None:
            site.cdn.up()
            site.sign(self._content, self._cues, ever=self._row.ever)
        else:
            scripts = fault.scripts(self._content, self._cues, ever=self._row.ever)
            site.origin.on(self._faulty_path, *scripts)
            if self._faulty_path != self._content.path and self._row.ever:
                # What can't be had by its digest is asked for by the tag.
                last, well = scripts[-1], self._content.answer()
                site.origin.on(
                    self._content.path,
                    lambda seen: well if seen.method == "HEAD" else last(seen) if callable(last) else last,
                )
        if fault.name == "no such name":
            site.tell(False)
        if not self._row.breaks:
            self._cues.go.set()

    def _well(self, origin: Origin) -> None:
        for path in (self._content.path, self._by_digest):
            origin.on(path, self._content.answer())

    def _go_wrong(self, clients: list[Future[Reply]]) -> None:
        """Do what takes more than an answer, while the clients wait."""
        row, site = self._row, self._site
        if row.breaks and row.fault.name != "slow":
            have = self._content.start + self._content.at
            # Of an origin that is silent it has no more for a second; whoever looks later finds it done.
            wait_until(
                lambda: self._part_size() >= have or any(client.done() for client in clients),
                f"the proxy has {have} bytes",
                timeout=SECONDS,
            )
            self._cues.go.set()
        if row.fault.name == "restarts":
            at = self._content.at
            site.origin.wait_for(lambda origin: any(seen.sent == at for seen in origin.requests))
            site.down()
            if not row.ever:
                self._well(site.up())
        if row.gets is Gets.EITHER:
            failed = {"host": f"{site.name}:{site.address[1]}", "code": "error"}
            wait_until(
                lambda: self._proxy.metric("regproxy_upstream_requests_total", **failed) > 0, "it was tried"
            )
            self._heal()

    def _heal(self) -> None:
        site = self._site
        site.tell(True)
        if site.present and self._row.fault.name == "no such name":
            return
        site.down()
        self._well(site.up())

    # --- clients -----------------------------------------------------------------------------------------

    def _get(self, begin: threading.Barrier | None = None) -> Reply:
        headers = list(ACCEPT)
        if self._row.shape is Shape.RANGE:
            headers.append(("Range", f"bytes={SPAN[0]}-{SPAN[1] - 1}"))
        with self._proxy.client(self._site.authority, timeout=SECONDS) as client:
            if begin is not None:
                begin.wait(SECONDS)
            return client.get(self._content.path, headers)

    def _ask(self, begin: threading.Barrier) -> Reply:
        return self._get(begin)

    def _again(self, played: Played) -> None:
        """Once all is well: a client that comes until it has it, as they do."""
        site = self._site
        if site.cdn is not None:
            site.cdn.down()
            site.cdn = None
        self._heal()
        before = len(site.seen)

        body = wanted(self._content, self._row)

        def attempt() -> Reply | None:
            reply = self._get()
            return reply if reply.body == body else None

        played.again = wait_until(attempt, f"{self._row} ends well", timeout=SECONDS)
        self._wait_kept()
        played.seen_again = site.seen[before:]

    # --- the disk ----------------------------------------------------------------------------------------

    @property
    def _part(self) -> Path:
        return self._proxy.cache_dir / "parts" / f"{self._content.digest[7:]}.part"

    def _part_size(self) -> int:
        with suppress(OSError):
            return self._part.stat().st_size
        return 0

    def _wait_kept(self) -> bool:
        blob = (
            self._proxy.cache_dir / "blobs" / "sha256" / self._content.digest[7:9] / self._content.digest[7:]
        )
        return wait_until(blob.exists, f"{self._row}: it is kept", timeout=SECONDS)

    def _left(self) -> tuple[int, str]:
        """Bytes of the content in the part, and what its filler has said; waits until it has gone."""
        if not self._row.left:
            wait_until(lambda: not self._part.exists(), f"{self._row}: nothing is left", timeout=SECONDS)
            return 0, ""

        def state() -> str:
            with suppress(OSError, ValueError):
                return str(json.loads(self._part.with_suffix(".meta").read_bytes())["state"])
            return ""

        wait_until(lambda: state() == "left", f"{self._row}: the part is left", timeout=SECONDS)
        have, body = self._part.read_bytes(), self._content.body
        same = (have[at : at + BLOCK] == body[at : at + BLOCK] for at in range(0, len(have), BLOCK))
        return sum(min(BLOCK, len(body)) for each in same if each), state()


def wanted(content: Content, row: Row) -> bytes:
    return content.body[slice(*SPAN)] if row.shape is Shape.RANGE else content.body


# --- what is checked ---------------------------------------------------------------------------------------


def check_reply(reply: Reply, row: Row, content: Content, old: Content) -> None:
    body, ok = wanted(content, row), 206 if row.shape is Shape.RANGE else 200
    late = row.clients > 1 and not row.ever  # it may have come when all was well again
    if reply.status == ok:
        # Whatever else has happened: nothing wrong, and nothing short for whole.
        given = old.body if row.gets is Gets.OLD else body
        if late and row.shape is Shape.HELD and reply.body in (old.body, body):
            given = reply.body
        assert reply.body == given[: len(reply.body)] or row.fault.stage is Stage.WRONG
        assert reply.complete == (len(reply.body) == len(given))
    gets = row.gets
    if late and reply.status == ok and reply.complete:
        return
    if gets is Gets.EITHER:
        gets = Gets.WHOLE if reply.status == ok else Gets.ERROR
    if gets is Gets.WHOLE or gets is Gets.OLD:
        assert (reply.status, reply.complete) == (ok, True), reply.body[:300]
    elif gets is Gets.STATUS:
        assert (reply.status, reply.complete) == (row.fault.status, True)
        if row.fault.name == "429 for a second":
            assert reply.get("Retry-After") is not None
    elif gets is Gets.ERROR or (row.clients > 1 and reply.status != ok):
        assert reply.complete and reply.status in {row.fault.status, 502, 503, 504} - {0}
        assert reply.status == row.fault.status or DOMAIN in reply.json()["errors"][0]["message"]
    else:
        assert (reply.status, reply.complete) == (ok, False)


def check_asked(row: Row, played: Played) -> None:
    """The content's requests, where one client alone has asked, and by one stream."""
    assert len(played.seen) <= REQUESTS_MAX
    content, stage = played.content, row.fault.stage
    first = FIRST_SPAN if row.shape is Shape.RANGE else None
    ranges = [seen.get("range") for seen in played.seen if seen.method == "GET" and "token" not in seen.path]
    if stage is Stage.DIAL or (stage is Stage.TLS and not row.kept):
        assert not ranges or row.gets is Gets.EITHER
        return
    if row.shape is Shape.HELD:
        assert played.seen[0].method == "HEAD"
        if stage in EARLY:
            assert not ranges
            return
    assert ranges[0] == first
    later: list[Seen] = []
    if row.kept and stage in (Stage.HEAD, Stage.STUMBLE):
        assert ranges[1] == first
    elif stage in (Stage.BODY, Stage.WHOLE, Stage.ACCESS) and row.shape is not Shape.TAG:
        # (A redirect's requests come by twos.)
        later = [seen for seen in played.seen if seen.get("range") not in (None, FIRST_SPAN)]
        assert later or (row.ever and row.fault.name in ("slow", "restarts")), ranges
    if later:
        lowest = content.start + (BLOCK if content.at > BLOCK and row.fault.name != "slow" else 0)
        assert lowest <= start_of(later[0]) <= content.start + content.at + 1
        assert later[0].get("if-range") in (content.etag, None)
        assert any(seen.get("if-range") == content.etag for seen in later)
    if row.fault.name == "416 to a range":
        assert None in ranges[1:]
    if row.kept and stage not in ALL_AGAIN:
        again = content.at if row.shape is Shape.TAG and stage is Stage.BODY else 0
        assert played.sent - sent_before(row, played) <= len(content.body) + again + BLOCK


def sent_before(row: Row, played: Played) -> int:
    return len(played.old.body) if row.shape is Shape.HELD else 0


def start_of(seen: Seen) -> int:
    return int((seen.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])


def check_again(row: Row, played: Played) -> None:
    """What was left is not asked for again."""
    assert played.again is not None
    if row.clients > 1 and not row.left:
        return  # some of the clients may have had it by now
    asked = sum(seen.sent for seen in played.seen_again)
    assert asked <= len(played.content.body) - played.had + BLOCK * (4 if row.clients > 1 else 1)
    if row.left and row.fault.name != "slow":
        assert played.had >= min(played.content.at, BLOCK * (played.content.at // BLOCK))


# --- the rows ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(
    request: pytest.FixtureRequest, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Row], Played]]:
    """Plays rows that were chosen, several at a time: with each the next ones, which are wanted soon.

    Not all of them at once: where tests run in several processes, others play what is not wanted here.
    """
    chosen = [
        cast(Row, item.callspec.params["row"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
        and "row" in item.callspec.params
    ]
    place = tmp_path_factory.mktemp("absorbed")
    with ExitStack() as stack:
        player = Player(place, trust, Trust(place / "stranger"), chosen, stack)
        pool = stack.enter_context(ThreadPoolExecutor(AT_A_TIME))
        stack.callback(pool.shutdown, cancel_futures=True)
        played: dict[str, Future[Played]] = {}
        begun: set[str] = set()

        def play(row: Row) -> Played:
            at = chosen.index(row)
            for soon in chosen[at : at + AT_A_TIME]:
                if str(soon) not in begun:
                    begun.add(str(soon))
                    played[str(soon)] = pool.submit(player.play, soon)
            return played.pop(str(row)).result()

        yield play
    for proxy in player.proxies.values():
        assert "Traceback" not in proxy.log()
        assert "is killed" not in proxy.log()  # a worker that hung


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row, rows: Callable[[Row], Played]) -> None:
    if row.fault.name == "no such name" and fake_dns.MISSING:
        pytest.skip(f"no names that come and go here: {fake_dns.MISSING}")
    played = rows(row)
    assert played.kept == row.kept
    assert (played.state == "left") == row.left
    if row.clients == 1:
        check_asked(row, played)
    elif row.kept and row.shape is not Shape.LARGE and row.fault.stage not in (*ALL_AGAIN, Stage.WRONG):
        # Together they have asked for no more than one does.
        assert played.sent - sent_before(row, played) <= len(played.content.body) + BLOCK
    if not row.kept:
        check_again(row, played)
