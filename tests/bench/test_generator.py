"""The load generator: what it asks for, what it takes for an answer, and what it says of itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import loadgen
from bench.errors import BenchError
from bench.loadgen import Generator, Load, Part, Result, Route
from bench.material import Item
from tests.support import ROOT
from tests.support.origin import Answer, Origin, Seen, blob_answer
from tests.support.proxy import Proxy
from tests.support.trust import Trust

NAME = "origin.test"
BODY = bytes(range(256)) * 400
DIGEST = hashlib.sha256(BODY).hexdigest()
PATH = f"/v2/a/blobs/sha256:{DIGEST}"
ITEM = Item(PATH, DIGEST, len(BODY))
PAUSE = 0.5  # s
WRONG = blob_answer(f"sha256:{DIGEST}", BODY, wrong_at=5)
RIGHT = blob_answer(f"sha256:{DIGEST}", BODY)

StartOrigin = Callable[..., Origin]


@pytest.fixture
def origin(start_origin: StartOrigin) -> Origin:
    """Serves ITEM over TLS."""
    made = start_origin(NAME)
    made.on(PATH, RIGHT)
    return made


def direct(origin: Origin, trust: Trust | None) -> Route:
    address = f"{origin.address[0]}:{origin.port}"
    return Route(address, origin.authority, trust.path if trust else None, name=NAME)


def measure(route: Route, load: Load) -> Result:
    """Run a load; the result even if the machine had no time for the generator, which voids a run."""
    return Generator(route, load).result(even_void=True)


@pytest.mark.parametrize(
    ("load", "connections"),
    [
        (Load(ITEM, count=20), 1),
        (Load(ITEM, count=20, connections=4, verify=True), 4),
        (Load(ITEM, count=20, connections=4, fresh=True), 20),
        (Load(ITEM, count=20, connections=4, rate=1000), 4),
        (Load(ITEM, count=20, connections=4, rate=1000, fresh=True), 20),
        (Load(ITEM, count=20, connections=4, parts=Part.all_of(BODY, 30_000), verify=True), 4),
    ],
    ids=["keep-alive", "several", "new ones", "at a rate", "new ones at a rate", "ranges"],
)
@pytest.mark.parametrize("way", ["TLS", "plain", "CONNECT"])
def test_what_is_asked_for(
    way: str,
    load: Load,
    connections: int,
    start_origin: StartOrigin,
    start_proxy: Callable[..., Proxy],
    trust: Trust,
) -> None:
    origin = start_origin(NAME, tls=way != "plain")
    origin.on(PATH, RIGHT)
    route = direct(origin, None if way == "plain" else trust)
    if way == "CONNECT":
        proxy = start_proxy(origin)
        route = Route(
            f"{proxy.address[0]}:{proxy.port}", origin.authority, proxy.ca_path, connect=True, name=NAME
        )
    result = measure(route, load)
    kind = result.kinds["request"]
    assert (result.requests, result.opened, kind.dropped) == (20, connections, 0)
    assert result.loop == ("open" if load.rate else "closed")
    assert result.tls.startswith("TLSv1.3") is (way != "plain")
    assert result.latency_us["min"] <= result.latency_us["p50"] <= result.latency_us["max"]
    assert kind.first_byte_us["p50"] <= kind.latency_us["p50"]
    if way != "CONNECT":
        assert (origin.hits[PATH], origin.connections) == (20, connections)
        assert {seen.get("range") for seen in origin.requests} == {
            part.options()[1] for part in load.parts
        } or {None}
    if not load.parts:
        assert result.bytes == 20 * len(BODY)


@pytest.mark.parametrize(
    ("scripts", "load", "words"),
    [
        ([WRONG], Load(ITEM, count=1), "expected"),
        ([RIGHT, WRONG], Load(ITEM, count=2, verify=True), "sha256"),
        ([replace(RIGHT, status=404)], Load(ITEM, count=1), "HTTP/1.1 404"),
        ([replace(RIGHT, body=BODY[:-1])], Load(ITEM, count=1), "the body has 102399 bytes, expected 102400"),
        ([replace(RIGHT, cut_at=1000)], Load(ITEM, count=1), "read of the body"),
        ([replace(RIGHT, cut_at=-1)], Load(ITEM, count=1), "read of the head"),
        ([replace(RIGHT, ranges=False)], Load(ITEM, count=1, parts=Part.all_of(BODY, 1000)), "HTTP/1.1 200"),
        ([WRONG], Load(ITEM, count=1, parts=Part.all_of(BODY, 1000)), "sha256"),
        ([replace(RIGHT, framing="eof")], Load(ITEM, count=1), "answer without a length"),
        ([replace(WRONG, framing="chunked")], Load(ITEM, count=1), "sha256"),
        (
            [replace(RIGHT, framing="chunked", body=BODY[:-1])],
            Load(ITEM, count=1),
            "the body has 102399 bytes",
        ),
    ],
    ids=[
        *("digest", "a later digest", "status", "length", "cut", "no answer", "no range", "range"),
        *("end by the connection", "digest of chunks", "length of chunks"),
    ],
)
def test_a_wrong_answer_ends_the_run(
    scripts: list[Answer], load: Load, words: str, origin: Origin, trust: Trust
) -> None:
    origin.on(PATH, *scripts)
    with pytest.raises(BenchError, match=words):
        loadgen.run(direct(origin, trust), load)


@pytest.mark.parametrize(
    ("fields", "hashed"),
    [({}, 1), ({"trusted": True}, 0)],
    ids=["the first one", "none, where that was said"],
)
def test_whose_digest_is_looked_at(fields: dict[str, Any], hashed: int, origin: Origin, trust: Trust) -> None:
    """What is not looked at may be wrong, which shows that it is not."""
    origin.on(PATH, *[RIGHT] * hashed, WRONG)
    assert measure(direct(origin, trust), Load(ITEM, count=5, **fields)).requests == 5


@pytest.mark.parametrize("fresh", [False, True])
def test_chunks(fresh: bool, origin: Origin, trust: Trust) -> None:
    origin.on(PATH, replace(RIGHT, framing="chunked"))
    result = measure(direct(origin, trust), Load(ITEM, count=5, connections=2, fresh=fresh, verify=True))
    assert (result.requests, result.bytes, result.opened) == (5, 5 * len(BODY), 5 if fresh else 2)


def test_a_server_of_another_name_is_refused(start_origin: StartOrigin, trust: Trust) -> None:
    with pytest.raises(BenchError, match="hostname mismatch"):
        loadgen.run(replace(direct(start_origin(NAME), trust), name="other.test"), Load(ITEM, count=1))


def test_a_connection_that_was_closed_meanwhile(origin: Origin, trust: Trust) -> None:
    """A server may end a connection between answers: the request that crosses it goes out once more."""
    origin.on(PATH, RIGHT, replace(RIGHT, cut_at=-1), RIGHT)
    result = measure(direct(origin, trust), Load(ITEM, count=3))
    assert (result.requests, result.retried, result.opened) == (3, 1, 2)


class Pausing:
    """Answers, but the first request waits, and all who come meanwhile wait with it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, _seen: Seen) -> Answer:
        with self._lock:
            if not self._over.is_set():
                self._over.wait(PAUSE)
                self._over.set()
        return RIGHT


@pytest.mark.parametrize("connections", [1, 4])
def test_a_pause_is_seen_by_all_whom_it_keeps_waiting(connections: int, origin: Origin, trust: Trust) -> None:
    """100 requests a second and a pause of half a second: the request that is due at t waits for 0.5 - t.

    A closed loop does not ask meanwhile, so there only the first request on each connection sees it: the
    omission that is called coordinated.
    """
    count, rate = 50, 100
    origin.on(PATH, Pausing())
    load = Load(ITEM, count=count, connections=connections, rate=rate)
    open_loop = measure(direct(origin, trust), load)
    origin.on(PATH, Pausing())
    closed = measure(direct(origin, trust), replace(load, rate=None))
    assert (open_loop.loop, closed.loop) == ("open", "closed")
    waited = sorted(PAUSE - number / rate for number in range(count))
    for at, share in (("p50", 0.5), ("p90", 0.9), ("max", 1)):
        assert open_loop.latency_us[at] >= waited[int(share * count) - 1] * 1e6, at
    # It was the server that was late, and not the generator: no connection was free.
    assert open_loop.lag_us["mean"] < open_loop.latency_us["p50"] / 2
    assert closed.latency_us["max"] >= PAUSE * 1e6
    assert closed.latency_us["p50"] < open_loop.latency_us["p50"]


PACE = """
import ctypes, json, sys
library, lags, span, is_open, latency = ctypes.CDLL(sys.argv[1]), *json.loads(sys.argv[2])
histogram = ctypes.create_string_buffer(1 << 20)
library.histogram_add(histogram, ctypes.c_uint64(int(latency * 1e9)))
second = ctypes.c_double
library.pace_begin(second(0))
for number, lag in enumerate(lags):
    library.pace_lag(second(number), second(number + lag), second(number / len(lags)))
library.pace_end(second(span))
library.pace_report(ctypes.c_bool(is_open), histogram)
"""


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bench/load/pace.c as a library."""
    made = tmp_path_factory.mktemp("pace") / "pace.so"
    sources = [str(ROOT / "bench" / "load" / name) for name in ("pace.c", "histogram.c")]
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, *sources, "-lm"], check=True)
    return made


@pytest.mark.parametrize(
    ("lags", "span", "is_open", "latency", "words", "void"),
    [
        ([0.0001] * 100, 1e6, True, 0.001, "", False),
        ([0.0001 * n for n in range(1000)], 1e6, True, 10, "fell behind its schedule", True),
        ([0.02] * 100, 1e6, True, 10, "", False),
        ([0.002] * 100, 1e6, True, 0.003, "was late", False),
        ([0.0] * 100, 1e-6, True, 0.001, "was busy", True),
        ([], 1e-6, False, 0.001, "was busy", False),
        ([], 1e6, False, 0.001, "", False),
    ],
    ids=["fine", "growing lag", "steady lag", "notable lag", "busy, open", "busy, closed", "closed"],
)
def test_it_says_when_it_was_the_limit(
    pace: Path, lags: list[float], span: float, is_open: bool, latency: float, words: str, void: bool
) -> None:
    """Closed loops are marked: what they cost the server holds, their rates are lower bounds."""
    given = json.dumps([lags, span, is_open, latency])
    command = [sys.executable, "-c", PACE, str(pace), given]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    said = json.loads("{" + done.stdout.rstrip(", ") + "}")
    assert words in said["bottleneck"] and bool(words) is bool(said["bottleneck"])
    assert said["void"] is void


def test_a_void_run_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Trust) -> None:
    fake = tmp_path / "loadgen"
    fake.write_text('#!/bin/sh\necho \'{"void": true, "bottleneck": "the generator was busy"}\'\n')
    fake.chmod(0o755)
    monkeypatch.setattr(loadgen, "build", lambda: fake)
    with pytest.raises(BenchError, match="void: the generator was busy"):
        loadgen.run(Route("127.0.0.1:1", NAME, trust.path), Load(ITEM, count=1))
