"""Two network namespaces and a bad line between them: delay, loss, a rate, and breaks of two kinds.

    with Lab(Way(delay=0.05, loss=0.02)) as lab:
        with lab.far.entered():
            origin = Origin(trust, "reg.test", address=(FAR, 8443))
        with lab.near.entered():
            proxy = Proxy(...)        # its processes, and whatever is dialled from here, are in there too
            lab.line.plague(200_000, [Fault("reset"), Fault("drop", 2.0)])

The line is a thread of the test: it carries packets between two TUN devices, and does to them what `tc qdisc
add ... netem` would, which not every kernel has. The namespaces have no name, and end with whoever uses them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.support.tcp_packets import Flows, Segment, opens

NEAR, FAR = "198.18.0.1", "198.18.0.2"  # RFC 2544: for tests of networks
_DEVICE: Final = Path("/dev/net/tun")
_CLONE_NEWNET: Final = 0x40000000  # sched.h
_TUNSETIFF, _TUN, _NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_LIMIT: Final = 1000  # packets that a direction holds, as netem's does
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Way:
    """What happens to packets of one direction. Seconds; a share of 1; bytes a second, or None."""

    delay: float = 0.0
    loss: float = 0.0
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A break. "drop": nothing passes for so long; "reset": all connections are, and new ones are refused."""

    kind: Literal["drop", "reset"]
    seconds: float = 0.0


class Namespace:
    """A network of its own, with a loopback device."""

    def __init__(self) -> None:
        self._fd = _apart()
        with self.entered():
            _ip("link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in there, and so are the threads, processes and sockets that it makes meanwhile."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_LIBC.setns, self._fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call(_LIBC.setns, before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def device(self, address: str, peer: str) -> int:
        """Make a TUN device that leads to `peer`, and return its descriptor."""
        with self.entered():
            fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"line", _TUN | _NO_PI))
            _ip("addr", "add", address, "peer", peer, "dev", "line")
            _ip("link", "set", "line", "up")
        return fd

    def close(self) -> None:
        os.close(self._fd)


class Line:
    """Carries packets between two TUN devices.

    `passed` are the bytes that came from the far one, `lost` the packets that never arrived although the line
    was whole, `faults` the breaks so far.
    """

    def __init__(self, near: int, far: int, there: Way, back: Way, seed: int) -> None:
        self.passed = self.lost = 0
        self.faults: Counter[str] = Counter()
        self._lanes = _Lane(near, far, there), _Lane(far, near, back)
        self._chance = random.Random(seed)
        self._flows = Flows()
        self._plagues: Iterator[Fault] = iter(())
        self._every = 0
        self._next = 0  # of `passed`, when the next fault is due
        self._broken: tuple[str, float] | None = None  # until when (monotonic), and how
        self._lock = threading.Lock()
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def plague(self, every: int, faults: Iterable[Fault]) -> None:
        """Break the line whenever so many bytes more have come from the far side, as the next fault says."""
        with self._lock:
            self._every, self._plagues = every, iter(faults)
            self._next = self.passed + every

    def heal(self) -> None:
        """No more faults; one that is under way ends."""
        with self._lock:
            self._plagues, self._every, self._broken = iter(()), 0, None

    def break_now(self, fault: Fault) -> None:
        """Break the line at once."""
        with self._lock:
            self._break(fault)

    def close(self) -> None:
        os.close(self._woken)
        self._thread.join(10)
        for fd in (self._wake, *(lane.source for lane in self._lanes)):
            os.close(fd)

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake)
        for lane in self._lanes:
            poll.register(lane.source, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience())}
            if self._wake in ready:
                return
            with self._lock:
                for lane in self._lanes:
                    if lane.source in ready:
                        self._take(lane)
                    self._carry(lane)

    def _patience(self) -> float | None:
        """Milliseconds until a packet is due; None: none waits."""
        due = min((lane.waiting[0][0] for lane in self._lanes if lane.waiting), default=None)
        return None if due is None else max(0.0, due - time.monotonic()) * 1000

    def _take(self, lane: _Lane) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                packet = os.read(lane.source, 65536)
                segment = Segment.parse(packet)
                if segment is None or self._stopped(lane, segment):
                    continue
                if self._chance.random() < lane.way.loss or len(lane.waiting) >= _LIMIT:
                    self.lost += 1
                else:
                    lane.put(packet)

    def _stopped(self, lane: _Lane, segment: Segment) -> bool:
        """Whether a packet gets no further, as the line is broken, or its connection."""
        kind, until = self._broken or ("", 0.0)
        if kind and time.monotonic() >= until:
            self._broken, kind = None, ""
        if kind == "drop":
            return True
        answer = self._flows.refusal(segment, all_of_them=kind == "reset")
        if answer is not None:
            _write(lane.source, answer)
        return self._flows.is_reset(segment) or kind == "reset"

    def _carry(self, lane: _Lane) -> None:
        now = time.monotonic()
        while lane.waiting and lane.waiting[0][0] <= now:
            _, packet = lane.waiting.popleft()
            self._flows.carried(packet)
            _write(lane.sink, packet)
            if lane is self._lanes[1]:
                self.passed += len(packet)
                if self._every and self.passed >= self._next:
                    self._next = self.passed + self._every
                    self._break_next()

    def _break_next(self) -> None:
        fault = next(self._plagues, None)
        if fault is not None:
            self._break(fault)

    def _break(self, fault: Fault) -> None:
        self.faults[fault.kind] += 1
        self._broken = fault.kind, time.monotonic() + fault.seconds
        for lane in self._lanes:
            # A handshake that is under way is no connection yet: nobody could be told of its end.
            kept = [(due, packet) for due, packet in lane.waiting if fault.kind == "reset" and opens(packet)]
            lane.waiting = deque(kept)
        if fault.kind == "reset":
            ends = self._flows.reset()
            for lane, address in zip(self._lanes, (NEAR, FAR), strict=True):
                for packet in ends.get(address, ()):
                    _write(lane.source, packet)


class _Lane:
    """One direction: `waiting` are packets, and when they are due."""

    def __init__(self, source: int, sink: int, way: Way) -> None:
        self.source, self.sink, self.way = source, sink, way
        self.waiting: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0

    def put(self, packet: bytes) -> None:
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + (len(packet) / self.way.rate if self.way.rate else 0.0)
        self.waiting.append((self._free_at + self.way.delay, packet))


class Lab:
    """Two namespaces, `near` at NEAR and `far` at FAR; the `line` between them is `way` in each direction."""

    def __init__(self, way: Way, *, seed: int = 1) -> None:
        self.near, self.far = Namespace(), Namespace()
        self.line = Line(self.near.device(NEAR, FAR), self.far.device(FAR, NEAR), way, way, seed)

    def close(self) -> None:
        self.line.close()
        self.near.close()
        self.far.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def missing() -> str | None:
    """Why there can be no such lab here; None: there can."""
    if shutil.which("ip") is None:
        return "no ip command"
    if not _DEVICE.exists():
        return f"no {_DEVICE}"
    try:
        Lab(Way()).close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces with TUN devices: {error}"
    return None


def _apart() -> int:
    """Return a descriptor of a new namespace."""
    made: list[int | OSError] = []

    def make() -> None:  # in a thread: it is one thread that unshare(2) puts into the new namespace
        try:
            _call(_LIBC.unshare, _CLONE_NEWNET)
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    return result


def _call(function: ctypes._NamedFuncPointer, *args: int) -> None:
    if function(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def _write(fd: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # a queue that is full loses it, as any line would
        os.write(fd, packet)
