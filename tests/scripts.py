"""Random scripts of origins that go wrong, while clients pull and processes die: `python -m tests.scripts`.

Each example is a script of a few steps on one proxy of two workers: something is published, the origin's next
answers are made bad, it is pulled by up to five clients at once, of which some leave, tags move, workers are
killed, the proxy is restarted, content is removed. What must hold, whatever comes of a pull:

- an answer that is complete has the right bytes, and a tag's content is what the tag was meanwhile, unless
  the answer says that it is stale;
- what is in `blobs/` has its digest;
- nobody waits for ever;
- once the origin is well again everything can be pulled, no part is left, in no process either, no connection
  is open but those that the origin knows of, and the proxy ends with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.client import Client, NotHttp, Reply
from tests.origin import Origin
from tests.parts.images import INDEX, MANIFEST, Image, digest_of, make_image
from tests.parts.processes import free_address, wait_until
from tests.parts.proxy import Proxy
from tests.parts.stumbles import CDN, FAULTS, SHARES, SIZES, Blob, Fault, Manifest, Stage, Tag, Thing
from tests.parts.trust import Trust

HOSTS = 40  # a breaker or a quota of one example is nobody else's for so long
HOLD_BACK = 16_384
OPEN = re.compile(r"/parts/|/memfd:regproxy-(body|part)")
PATIENCE = 60.0  # seconds until a pull must have ended, and until one must have worked
STALL = 2.0  # seconds for an answer that stalls to be asked for; what is held is not
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


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

    def __init__(self, world: World, host: str, thing: Thing, how: Manner) -> None:
        self.wrong = ""
        self._world, self._host, self._thing, self._how = world, host, thing, how
        self._since = len(thing.images) - 1 if isinstance(thing, Tag) else 0
        self._strict = not thing.spoilt
        self._range = how.range(len(thing.body)) if isinstance(thing, Blob) else None
        self.whole = False

    def run(self) -> None:
        try:
            with self._world.proxy.client(self._host, timeout=PATIENCE) as client:
                self._run(client)
        except TimeoutError:
            self.wrong = f"hangs: {self}"
        except NotHttp as error:
            self.wrong = f"is no HTTP: {self}: {error}"
        except (OSError, AssertionError):
            # Its worker was killed, or the proxy has just ended.
            self._world.tally.lost += 1

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
            self._world.tally.answers["cut" if reply.status in (0, 200, 206) else str(reply.status)] += 1
            return
        self._world.tally.answers["complete"] += 1
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
        first, stop = self._range or (0, len(self._thing.body))
        head = client.read_head()
        data = client.read(int((self._how.leaves or 0) * (stop - first)))
        self._world.tally.left += 1
        if self._how.resets:
            client.reset()
        if head.status in (200, 206) and self._strict and isinstance(self._thing, Blob):
            start = first if head.status == 206 else 0
            if data != self._thing.body[start : start + len(data)]:
                self.wrong = f"begins with other bytes: {self}"


# --- the world ---------------------------------------------------------------------------------------------


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


class World:
    """A proxy of two workers before one origin of many names, kept from example to example."""

    def __init__(self, directory: Path) -> None:
        self.number = 0
        self._directory = directory
        self._checked: dict[tuple[str, int, int], bool] = {}
        self._stack = ExitStack()
        self._trust = Trust(directory / "trust")
        self._names = tuple(f"r{number}.test" for number in range(HOSTS))
        self.origin = self._stack.enter_context(Origin(self._trust, *self._names, CDN))
        self.stage = Stage(self.origin)
        self.tally = Tally(faults=self.stage.faults)
        self._addresses = (address := free_address()), free_address(address[0])
        self.proxy = self._start()

    def _start(self) -> Proxy:
        return Proxy(
            self._directory / "proxy",
            {
                "REGPROXY_WORKERS": "2",
                "REGPROXY_RESUME_TIME": "2s",
                "REGPROXY_LOG_LEVEL": "info",
                "ENABLE_MANIFEST_CACHE": "false",
            },
            registries=tuple(f"{name}:{self.origin.port}" for name in self._names),
            resolve=self.origin.resolve,
            ca=self._trust.path,
            addresses=self._addresses,
        )

    def host(self) -> str:
        """The next name to be known by."""
        self.tally.examples += 1
        return f"{self._names[self.tally.examples % HOSTS]}:{self.origin.port}"

    def next(self) -> int:
        self.number += 1
        return self.number

    # --- steps -------------------------------------------------------------------------------------------

    def pull(
        self, host: str, thing: Thing, clients: list[Manner], meanwhile: Callable[[], None]
    ) -> list[Pull]:
        """Have these clients pull it at once, and something happen meanwhile; how it went."""
        self.stage.go.clear()
        self.stage.stalled.clear()
        pulls = [Pull(self, host, thing, how) for how in clients]
        self.tally.pulls += len(pulls)
        threads = [threading.Thread(target=pull.run) for pull in pulls]
        for thread in threads:
            thread.start()
        if any(fault.kind.startswith("stall") for fault in list(thing.faults)):
            self.stage.stalled.wait(STALL)
        meanwhile()
        self.stage.go.set()
        for thread in threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), f"a client hangs: {thing.path}"
        return pulls

    def kill(self, which: int) -> None:
        """SIGKILL one of the workers."""
        pids = self.proxy.workers(1)
        self.tally.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[which % len(pids)], signal.SIGKILL)

    def restart(self) -> None:
        """End the proxy in order, and start it again on what it has left."""
        self.stage.go.set()
        self.tally.restarts += 1
        self._stop()
        self.proxy = self._start()

    def _stop(self) -> None:
        code = self.proxy.stop(timeout=60)
        assert code == 0, f"the proxy has ended with {code}\n{self.proxy.log()[-4000:]}"

    def remove(self, thing: Thing) -> None:
        """Delete it from the cache, as anybody may at any time."""
        name = digest_of(thing.body)[7:]
        (self.proxy.cache_dir / "blobs" / "sha256" / name[:2] / name).unlink(missing_ok=True)

    def rest(self) -> None:
        """Wait until nothing is being fetched."""
        self.stage.go.set()
        self.origin.wait_idle(timeout=PATIENCE)
        wait_until(
            lambda: self.proxy.metric("regproxy_fills_active") == 0, "nothing is fetched", timeout=PATIENCE
        )

    # --- what must hold ----------------------------------------------------------------------------------

    def check_blobs(self) -> None:
        """What is stored has its digest."""
        for path in (self.proxy.cache_dir / "blobs" / "sha256").glob("??/*"):
            try:
                state, body = path.stat(), path.read_bytes()
            except FileNotFoundError:
                continue
            key = path.name, state.st_ino, state.st_mtime_ns
            if key not in self._checked:
                assert digest_of(body) == f"sha256:{path.name}", f"{path} is not what it is called"
                self._checked[key] = True

    def settle(self, host: str, things: list[Thing]) -> None:
        """Everything can be pulled once the origin is well, and nothing is left of what was not."""
        self.stage.go.set()
        for thing in things:
            thing.faults.clear()
        for thing in things:
            self._settle_one(host, thing)
        self.rest()
        wait_until(lambda: self.proxy.parts() == [], "no part is left behind", timeout=PATIENCE)
        self.check_blobs()
        self.proxy.workers(2)
        try:
            wait_until(lambda: self._left() == {}, "nothing is left open", timeout=PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self._left()}\n{self.proxy.log()[-4000:]}") from None
        assert "Traceback" not in self.proxy.log(), self.proxy.log()[-8000:]

    def _settle_one(self, host: str, thing: Thing) -> None:
        try:
            wait_until(lambda: self._works(host, thing), f"{thing.path} can be pulled", timeout=PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.proxy.log()[-4000:]}") from None

    def _works(self, host: str, thing: Thing) -> bool:
        (pull,) = self.pull(host, thing, [Manner()], lambda: None)
        assert not pull.wrong, pull.wrong
        return pull.whole

    def _left(self) -> dict[str, object]:
        """What is open in the workers and should not be: parts, bodies in memory, connections."""
        found: dict[str, object] = {}
        lives = self._live()
        streams = sum(live["streams"] for live in lives.values()) - len(lives)  # without the one that asks
        if streams != self.origin.open_connections:
            found["streams"] = streams, self.origin.open_connections
        for pid in lives:
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        name = str(link.readlink())
                        if (
                            "/parts/" in name
                            or "memfd:regproxy-body" in name
                            or "memfd:regproxy-part" in name
                        ):
                            found[f"{pid}/{link.name}"] = name
        return found

    def _live(self) -> dict[int, dict[str, int]]:
        """What each worker says of itself; which of them is asked is chance."""

        def both() -> dict[int, dict[str, int]] | None:
            live = json.loads(self.proxy.admin("/debug/live")[1])
            lives[live["pid"]] = live
            return lives if set(lives) >= set(self.proxy.workers(2)) else None

        lives: dict[int, dict[str, int]] = {}
        return wait_until(both, "both workers have answered", timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._stop()
        finally:
            self.proxy.kill()
            self._stack.close()


class Scripts(RuleBasedStateMachine):
    """One example: a script of steps."""

    world: ClassVar[World]

    @initialize(size=st.sampled_from(SIZES))
    def begin(self, size: int) -> None:
        self.host = self.world.host()
        self.things: list[Thing] = []
        self.tags: list[Tag] = []
        self.blob(size)

    def _publish(self, thing: Thing) -> None:
        self.things.append(thing)
        self.world.stage.publish(thing)

    def _image(self) -> Image:
        return make_image(size=500, layers=1, seed=self.world.next())

    @rule(size=st.sampled_from(SIZES))
    def blob(self, size: int) -> None:
        self._publish(Blob(self.world.next(), size))

    @rule(tag=st.booleans())
    def image(self, tag: bool) -> None:
        image = self._image()
        self._publish(Manifest(image))
        if tag:
            self.tags.append(named := Tag(self.world.next(), image))
            self._publish(named)

    @rule(which=st.integers(0, 9), faults=st.lists(FAULTS, min_size=1, max_size=6))
    def goes_wrong(self, which: int, faults: list[Fault]) -> None:
        thing = self.things[which % len(self.things)]
        thing.spoilt = thing.spoilt or any(fault.spoils for fault in faults)
        thing.faults.extend(faults)

    @rule(
        which=st.integers(0, 9),
        clients=CLIENTS,
        meanwhile=st.sampled_from(("nothing", "nothing", "nothing", "kill", "cut", "remove", "move")),
        worker=st.integers(0, 1),
    )
    def pull(self, which: int, clients: list[Manner], meanwhile: str, worker: int) -> None:
        thing = self.things[which % len(self.things)]
        happens: dict[str, Callable[[], None]] = {
            "kill": lambda: self.world.kill(worker),
            "cut": self.world.origin.cut_all,
            "remove": lambda: self.world.remove(thing),
            "move": lambda: thing.move(self._image()) if isinstance(thing, Tag) else None,
        }
        pulls = self.world.pull(self.host, thing, clients, happens.get(meanwhile, lambda: None))
        wrong = [pull.wrong for pull in pulls if pull.wrong]
        assert not wrong, f"{wrong}\n{self.world.proxy.log()[-4000:]}"

    @precondition(lambda self: self.tags)
    @rule(which=st.integers(0, 9))
    def tag_moves(self, which: int) -> None:
        # A fetch that is under way may share its answer with who asks behind this.
        self.world.rest()
        self.tags[which % len(self.tags)].move(self._image())

    @rule(which=st.integers(0, 1))
    def worker_dies(self, which: int) -> None:
        self.world.kill(which)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(which=st.integers(0, 9))
    def remove(self, which: int) -> None:
        self.world.remove(self.things[which % len(self.things)])

    def teardown(self) -> None:
        if hasattr(self, "things"):
            self.world.settle(self.host, self.things)


def run(directory: Path, examples: int, number: int, *, steps: int = 10, shrink: bool = False) -> Tally:
    """So many scripts; what has happened. The first that does not hold is an AssertionError."""
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    with World(directory) as world:
        machine = seed(number)(type("Machine", (Scripts,), {"world": world}))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=phases,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return world.tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--shrink", action="store_true", help="look for a shorter script that fails")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="regproxy-scripts-") as place:
        print(run(Path(place), options.examples, options.seed, shrink=options.shrink))
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
