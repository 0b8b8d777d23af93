"""Random scripts of origins that go wrong, while clients pull: `python -m tests.load.scripts`.

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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

from tests.load.script_clients import CLIENTS, PATIENCE, Manner, Pull, Tally
from tests.load.script_faults import CDN, FAULTS, SIZES, Blob, Fault, Manifest, Stage, Tag, Thing
from tests.support.images import Image, digest_of, make_image
from tests.support.origin import Origin
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

HOSTS = 40  # a breaker or a quota of one example is nobody else's for so long
OPEN = re.compile(r"/parts/|/memfd:regproxy-(body|part)")
STALL = 2.0  # seconds for an answer that stalls to be asked for; what is held is not


class World:
    """A proxy of two workers before one origin of many names, kept from example to example."""

    def __init__(self, directory: Path) -> None:
        self.number = 0
        self.script: list[str] = []  # of the example that runs
        self.failure = ""  # the first
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

    def log(self) -> str:
        """The last that the proxy has said of pulls."""
        lines = [
            line for line in self.proxy.log().splitlines() if " INFO regproxy.process.supervisor" not in line
        ]
        return "\n".join(lines[-40:])

    # --- steps -------------------------------------------------------------------------------------------

    def pull(
        self, host: str, thing: Thing, clients: list[Manner], meanwhile: Callable[[], None]
    ) -> list[Pull]:
        """Have these clients pull it at once, and something happen meanwhile; how it went."""
        self.stage.go.clear()
        self.stage.stalled.clear()
        pulls = [Pull(self.proxy, host, thing, how, self.tally) for how in clients]
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
        pid = pids[which % len(pids)]
        self.tally.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.proxy.workers(), f"{pid} is dead")

    def restart(self) -> None:
        """End the proxy in order, and start it again on what it has left."""
        self.stage.go.set()
        self.tally.restarts += 1
        self._stop()
        self.proxy = self._start()

    def _stop(self) -> None:
        # One that was killed just now would count as cut.
        self.proxy.workers(2)
        code = self.proxy.stop(timeout=60)
        assert code == 0, f"the proxy has ended with {code}\n{self.log()}"

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
        try:
            # Of what a worker had open still when it was removed a part may stay, until the janitor comes by.
            known = {thing.path.rpartition(":")[2] for thing in things}
            wait_until(
                lambda: {path.stem for path in self.proxy.parts() if not self._is_resumable(path)} <= known,
                "no part is left behind",
                timeout=PATIENCE,
            )
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.proxy.parts()}\n{self.log()}") from None
        self.check_blobs()
        self.proxy.workers(2)
        try:
            wait_until(lambda: self._left() == {}, "nothing is left open", timeout=PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self._left()}\n{self.log()}") from None
        log = self.proxy.log()
        assert "Traceback" not in log, log[max(0, log.find("Traceback") - 1000) :][:6000]

    def _is_resumable(self, part: Path) -> bool:
        """Whether a part stays for a day: a refusal has ended its fill, and its content is not stored.

        It was pulled all the same: from a worker that had it open when it was removed.
        """
        name = part.stem
        stored = self.proxy.cache_dir / "blobs" / "sha256" / name[:2] / name
        return len(name) == 64 and not stored.exists()

    def _settle_one(self, host: str, thing: Thing) -> None:
        try:
            wait_until(lambda: self._works(host, thing), f"{thing.path} can be pulled", timeout=PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

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
                        if OPEN.search(name):
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

    @contextlib.contextmanager
    def _step(self, *words: object) -> Iterator[None]:
        """Note it: when something fails it must be known what had happened, for it need not happen again."""
        script = self.world.script
        script.append(" ".join(map(str, words)))
        try:
            yield
        except Exception as error:
            if not self.world.failure:
                self.world.failure = "\n".join([*script, f"{type(error).__name__}: {error}"])
            raise

    @initialize(size=st.sampled_from(SIZES))
    def begin(self, size: int) -> None:
        self.world.script.clear()
        self.host = self.world.host()
        self.things: list[Thing] = []
        self.tags: list[Tag] = []
        self._blob(size)

    def _publish(self, thing: Thing) -> None:
        with self._step("publish", thing.path, len(thing.body)):
            self.things.append(thing)
            self.world.stage.publish(thing)

    def _image(self) -> Image:
        return make_image(size=500, layers=1, seed=self.world.next())

    def _blob(self, size: int) -> None:
        self._publish(Blob(self.world.next(), size))

    @rule(what=st.sampled_from((*SIZES, "manifest", "tag")))
    def publish(self, what: int | str) -> None:
        if isinstance(what, int):
            self._blob(what)
            return
        image = self._image()
        self._publish(Manifest(image))
        if what == "tag":
            self.tags.append(named := Tag(self.world.next(), image))
            self._publish(named)

    @rule(
        which=st.integers(0, 9),
        faults=st.lists(FAULTS, max_size=4),
        clients=CLIENTS,
        meanwhile=st.sampled_from(("nothing", "nothing", "kill", "cut", "remove", "move")),
        worker=st.integers(0, 1),
    )
    def pull(
        self, which: int, faults: list[Fault], clients: list[Manner], meanwhile: str, worker: int
    ) -> None:
        thing = self.things[which % len(self.things)]
        happens: dict[str, Callable[[], None]] = {
            "kill": lambda: self.world.kill(worker),
            "cut": self.world.origin.cut_all,
            "remove": lambda: self.world.remove(thing),
            "move": lambda: thing.move(self._image()) if isinstance(thing, Tag) else None,
        }
        thing.spoilt = thing.spoilt or any(fault.spoils for fault in faults)
        thing.faults.extend(faults)
        with self._step("pull", thing.path, *faults, *clients, meanwhile, worker):
            pulls = self.world.pull(self.host, thing, clients, happens.get(meanwhile, lambda: None))
            wrong = [pull.wrong for pull in pulls if pull.wrong]
            assert not wrong, f"{wrong}\n{self.world.log()}"

    @precondition(lambda self: self.tags)
    @rule(which=st.integers(0, 9))
    def tag_moves(self, which: int) -> None:
        tag = self.tags[which % len(self.tags)]
        with self._step("move", tag.path):
            # A fetch that is under way may share its answer with who asks behind this.
            self.world.rest()
            tag.move(self._image())

    @rule(what=st.sampled_from(("kill", "restart", "remove")), which=st.integers(0, 9))
    def between(self, what: str, which: int) -> None:
        thing = self.things[which % len(self.things)]
        with self._step(what, which, thing.path):
            if what == "kill":
                self.world.kill(which)
            elif what == "restart":
                self.world.restart()
            else:
                self.world.remove(thing)

    def teardown(self) -> None:
        if not self.world.failure:
            with self._step("settle"):
                self.world.settle(self.host, self.things)


def run(directory: Path, examples: int, number: int, *, steps: int = 10, shrink: bool = False) -> Tally:
    """So many scripts; what has happened. The first that does not hold is an AssertionError."""
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    with World(directory) as world:
        machine = seed(number)(type("Machine", (Scripts,), {"world": world}))
        bounds = settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(machine, settings=bounds)
        except Exception as error:
            # The same script may go well the next time, which is then what hypothesis says of it.
            raise AssertionError(world.failure or str(error)) from error
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
        try:
            print(run(Path(place), options.examples, options.seed, shrink=options.shrink))
        except AssertionError as error:
            print(f"WRONG: {error}")
            return 1
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
