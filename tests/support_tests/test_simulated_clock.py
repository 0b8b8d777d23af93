"""The simulated clock moves the wall clock of other processes and nothing else, the proxy's included."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.images import MANIFEST, Image
from tests.support.origin import Origin
from tests.support.proxy import Proxy, said
from tests.support.simulated_clock import MISSING, SimulatedClock

HOUR = 3600.0
SLACK = 30.0  # seconds: between two looks at a clock a machine may be busy
TELLS = """
import datetime, json, os, pathlib, sqlite3, sys, time
import uvloop
loop = uvloop.new_event_loop()
for line in sys.stdin:
    with open(line.strip(), "w") as new:
        file = os.fstat(new.fileno())
    then, _ = time.monotonic(), time.sleep(0.01)
    print(json.dumps({
        "time": time.time(),
        "realtime": time.clock_gettime(time.CLOCK_REALTIME),
        "datetime": datetime.datetime.now(datetime.UTC).timestamp(),
        "sqlite": float(sqlite3.connect(":memory:").execute("SELECT unixepoch()").fetchone()[0]),
        "new": file.st_mtime,
        "files": {e.name: e.stat().st_mtime for e in os.scandir(".") if e.is_file()},
        "monotonic": time.monotonic(),
        "slept": time.monotonic() - then,
        "loop": loop.time(),
    }), flush=True)
"""

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no simulated clock: {MISSING}")


@pytest.fixture
def clock(tmp_path: Path) -> SimulatedClock:
    return SimulatedClock(tmp_path / "clock")


class Teller:
    """A process that tells what time it is for it."""

    def __init__(self, clock: SimulatedClock, place: Path) -> None:
        place.mkdir()
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", TELLS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clock.env,
            cwd=place,
        )

    def __call__(self) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._count += 1
        self._process.stdin.write(f"file{self._count}\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture
def tell(clock: SimulatedClock, tmp_path: Path) -> Iterator[Teller]:
    teller = Teller(clock, tmp_path / "files")
    yield teller
    teller.close()


def near(value: float, want: float) -> bool:
    return abs(value - want) < SLACK


def test_every_way_to_ask_for_the_time(clock: SimulatedClock, tell: Teller) -> None:
    began = time.time()
    for passed in (0.0, HOUR, 25 * HOUR):
        clock.advance(began + passed - clock.time() if passed else 0.0)
        assert near(clock.time(), began + passed)
        told = tell()
        for name in ("time", "realtime", "datetime", "sqlite", "new"):
            assert near(told[name], clock.time()), (name, told)


def test_what_measures_and_waits_is_left_alone(clock: SimulatedClock, tell: Teller) -> None:
    before = tell()
    clock.advance(24 * HOUR)
    after = tell()
    for name in ("monotonic", "loop"):
        assert 0 < after[name] - before[name] < SLACK
    assert after["slept"] < SLACK


def test_a_file_is_as_old_as_it_would_be(clock: SimulatedClock, tell: Teller, tmp_path: Path) -> None:
    (tmp_path / "files" / "before").touch()
    for _ in range(3):
        tell()
        clock.advance(HOUR)
    told = tell()
    ages = {name: told["time"] - changed for name, changed in told["files"].items()}
    want = {"before": 3 * HOUR, "file1": 3 * HOUR, "file2": 2 * HOUR, "file3": HOUR, "file4": 0.0}
    assert ages.keys() == want.keys()
    assert all(near(ages[name], age) for name, age in want.items()), ages


def test_the_clock_does_not_go_back(clock: SimulatedClock) -> None:
    with pytest.raises(ValueError):
        clock.advance(-1)


def test_tags_age_in_a_proxy(
    clock: SimulatedClock,
    start_origin: Callable[..., Origin],
    start_proxy: Callable[..., Proxy],
    talk: Callable[..., Client],
    image: Image,
) -> None:
    """The workers have the clock from the process that started them."""
    origin = start_origin("reg.test")
    origin.publish("app", image, "edge")
    proxy = start_proxy(
        origin,
        ENABLE_MANIFEST_CACHE="true",
        MANIFEST_CACHE_DEFAULT_TIME="1h",
        REGPROXY_WORKERS="2",
        **clock.env,
    )
    words, asked, ends = [], [], []
    for count in range(1, 5):
        client = talk(proxy, origin)
        reply = client.get("/v2/app/manifests/edge", {"Accept": MANIFEST})
        assert (reply.status, reply.digest) == (200, image.digest)
        words.append(said(reply)[0] == "HIT")
        asked.append(origin.hits["/v2/app/manifests/edge"])
        ends.append(proxy.access_log(count)[-1]["access_time"])  # the line is made a moment after the answer
        clock.advance(0.75 * HOUR)
    assert words == [False, True, False, True]
    assert asked == [1, 1, 2, 2]
    first, *_, last = map(datetime.fromisoformat, ends)
    assert near((last - first).total_seconds(), 2.25 * HOUR)
