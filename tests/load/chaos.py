"""Processes of the proxy are killed at random moments while clients pull: `python -m tests.load.chaos`.

In each round an image that is new to the cache is pulled by skopeo and by raw clients, which pull older
content too, while one victim is killed with SIGKILL: who fills something, another worker, all workers, or the
supervisor. What must hold:

- an answer that is complete has the right digest, whoever died meanwhile;
- every pull works in the end, when it is tried again;
- no part is left behind, and the index is what is on disk;
- `regproxy cache verify` finds nothing wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image
from tests.support.origin import Origin
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Failed, Skopeo
from tests.support.trust import Trust

RATE = 25_000_000  # bytes/s of the origin: a fill lasts long enough to be met
CLIENTS = 6
PATIENCE = 40.0  # seconds until a pull has to have worked
VICTIMS = ("filler", "follower", "all", "supervisor")
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]


@dataclass
class Tally:
    """What has happened. `cut`: answers that ended early, as they may when their worker is killed."""

    complete: int = 0
    cut: int = 0
    pulled: int = 0
    again: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {count}" for victim, count in sorted(self.kills.items()))
        return (
            f"{self.complete} complete answers, {self.cut} cut ones, {self.pulled} images by skopeo "
            f"({self.again} tried again); killed: {kills}; wrong: {len(self.wrong)}"
        )


class Chaos:
    """A proxy of two workers before an origin, and the clients that pull through it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tally = Tally()
        self._directory = directory
        self._lock = threading.Lock()
        self._images: list[Image] = []
        self._orphaned: list[Proxy] = []  # whose supervisors were killed
        self._stack = ExitStack()
        self._trust = Trust(directory / "trust")
        self._origin = self._stack.enter_context(Origin(self._trust, "reg.test", rate=RATE))
        self._addresses = (address := free_address()), free_address(address[0])
        self.proxy = self._start()
        self._skopeo = Skopeo(directory / "skopeo", proxy=self.proxy.url, ca=self.proxy.ca_path)

    def _start(self) -> Proxy:
        return Proxy(
            self._directory / "proxy",
            {"REGPROXY_WORKERS": "2", "ENABLE_MANIFEST_CACHE": "true", "REGPROXY_DEBUG": None},
            registries=(self._origin.authority,),
            resolve=self._origin.resolve,
            ca=self._trust.path,
            addresses=self._addresses,
        )

    def close(self) -> None:
        for proxy in (*self._orphaned, self.proxy):
            proxy.kill()
        self._stack.close()

    # --- a round -----------------------------------------------------------------------------------------

    def round(self) -> None:
        """Pull something new, kill somebody meanwhile, and see that all is well in the end."""
        number = len(self._images)
        image = make_image(size=self.chance.choice((200_000, 3_000_000, 6_000_000)), seed=number + 1000)
        self._images.append(image)
        tag = f"v1.0.{number}"
        self._origin.publish("app", image, tag)
        done = threading.Event()
        threads = [threading.Thread(target=self._pull_image, args=(tag, image))]
        for client in range(CLIENTS):
            chance = random.Random(f"{number}/{client}/{self.chance.random()}")
            threads.append(threading.Thread(target=self._pull_blobs, args=(chance, image)))
        for thread in threads:
            thread.start()
        victim = self.chance.choices(VICTIMS, (4, 3, 2, 1))[0]
        # At random moments: this is the point of it, and no event could stand for it.
        done.wait(self.chance.uniform(0.0, 0.35))
        self._kill(victim)
        for thread in threads:
            thread.join(3 * PATIENCE)
            if thread.is_alive():
                self._wrong(f"round {number}: a client hangs")

    def _kill(self, victim: str) -> None:
        self.tally.kills[victim] += 1
        if victim == "supervisor":
            self.proxy.daemon.send(signal.SIGKILL)
            self.proxy.daemon.wait(10)
            self._orphaned.append(self.proxy)
            self.proxy = self._start()
            return
        pids = self.proxy.workers(1)
        filling = [pid for pid in pids if _fills(pid)]
        others = [pid for pid in pids if pid not in filling]
        chosen = {"filler": filling or pids, "follower": others or pids, "all": pids}[victim]
        for pid in chosen if victim == "all" else chosen[:1]:
            with contextlib.suppress(ProcessLookupError):  # it may have been the last one's
                os.kill(pid, signal.SIGKILL)

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.tally.wrong.append(what)

    # --- clients -----------------------------------------------------------------------------------------

    def _pull_image(self, tag: str, image: Image) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                pulled = self._skopeo.copy(f"{self._origin.authority}/app:{tag}")
            except Failed as error:
                self.tally.again += 1
                if time.monotonic() > ends:
                    self._wrong(f"skopeo: {error}")
                    return
                continue
            except AssertionError as error:
                self._wrong(f"skopeo got something wrong: {error}")
                return
            if pulled.digest != image.digest:
                self._wrong(f"skopeo got {pulled.digest} for {image.digest}")
            self.tally.pulled += 1
            return

    def _pull_blobs(self, chance: random.Random, image: Image) -> None:
        """Everything of the new image, in an order of one's own, and some things that are held."""
        wanted = [f"/v2/app/blobs/{digest}" for digest in image.blobs]
        wanted += [f"/v2/app/manifests/{image.digest}"]
        older = chance.choice(self._images)
        wanted += [f"/v2/app/blobs/{older.layers[0]}", f"/v2/app/manifests/{older.digest}"]
        chance.shuffle(wanted)
        for path in wanted:
            self._pull(path)

    def _pull(self, path: str) -> None:
        digest = path.rpartition("/")[2]
        ends = time.monotonic() + PATIENCE
        while True:
            said = "no connection"
            with contextlib.suppress(OSError, AssertionError):
                with self.proxy.client(self._origin.authority, timeout=PATIENCE) as client:
                    reply = client.get(path, ACCEPT)
                said = f"{reply.status}, {len(reply.body)} bytes, complete: {reply.complete}"
                if reply.complete and reply.status == 200:
                    with self._lock:
                        self.tally.complete += 1
                    if digest_of(reply.body) != digest:
                        self._wrong(f"{path}: complete, and wrong")
                    return
                with self._lock:
                    self.tally.cut += 1
            if time.monotonic() > ends:
                self._wrong(f"{path}: {said}")
                return

    # --- the end -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Look at what is left."""
        for orphaned in self._orphaned:
            wait_until(partial(_has_ended, orphaned), "orphans end by themselves", timeout=60)
        # What was stored another way is swept after 10 s, by a sweep every 20 s.
        try:
            wait_until(lambda: not self._parts(), "no part is left behind", timeout=60)
        except TimeoutError as error:
            self._wrong(f"{error}: {self._parts()}")
        wait_until(lambda: self._differences() == [], "the index is what is on disk", timeout=60)
        done = self.proxy.command("cache", "verify")
        if done.returncode:
            self._wrong(f"verify: exit {done.returncode}\n{done.stdout}{done.stderr}")
        before, traceback, after = self.proxy.log().partition("Traceback")
        if traceback:
            self._wrong(f"a traceback in the log:\n{before[-500:]}{traceback}{after[:4000]}")
        if self.proxy.stop(timeout=60) not in (0, 1):
            self._wrong("the proxy ended badly")

    def _parts(self) -> list[str]:
        return [path.name for path in self.proxy.parts()]

    def _differences(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.proxy.cache_dir / "index.sqlite3", timeout=30)) as index:
            rows = dict(index.execute("SELECT digest, size FROM objects"))
        blobs = self.proxy.blobs()
        return sorted({digest for digest in rows.keys() | blobs if rows.get(digest) != blobs.get(digest)})


def _fills(pid: int) -> bool:
    """Whether the process has the lock of a part (proc(5), /proc/pid/fdinfo)."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                target = Path(f"/proc/{pid}/fd/{entry.name}").readlink()
                if target.suffix == ".part" and "OFDLCK" in entry.read_text():
                    return True
    return False


def run(directory: Path, rounds: int, seed: int, report: bool = False) -> Tally:
    """So many rounds; what has happened. `tally.wrong` is empty if all is well."""
    chaos = Chaos(directory, seed)
    try:
        for number in range(rounds):
            chaos.round()
            if report and number % 10 == 9:
                print(f"round {number + 1}: {chaos.tally}", flush=True)
        chaos.settle()
    finally:
        chaos.close()
    return chaos.tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="regproxy-chaos-") as place:
        tally = run(Path(place), options.rounds, options.seed, report=True)
    print(tally)
    for what in tally.wrong:
        print(f"WRONG: {what}")
    return 1 if tally.wrong else 0


def _has_ended(proxy: Proxy) -> bool:
    return not proxy.daemon.group_alive()


if __name__ == "__main__":
    sys.exit(main())
