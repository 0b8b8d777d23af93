"""Random handlers and peers on the data plane's classes, in one process, without any proxy.

    python -m tests.load.fuzzing --seconds 60 [--seed N]

Handlers do whatever they may at any call: send, receive, close, abort another stream, fail. What must hold:
each stream sends exactly what it was given, up to where it was cut, and all of it where its end is in order;
bodies that are complete are what was sent; what is hashed is what is in the file; nothing raises but the
handlers themselves; and in the end no stream, SSL object, file or descriptor is left. `python -m
tests.support.sanitized` runs it with AddressSanitizer.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import random
import socket
import ssl
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvloop

from regproxy.dataplane import file as file_module
from regproxy.dataplane import stream as stream_module
from regproxy.dataplane import tls
from regproxy.dataplane.stream import Stream
from tests.load.fuzzing_handlers import TIMEOUT, Handler, Raised, Sent, World, read
from tests.support.plane import tcp_pair

GROUP: Final = 8  # scenarios that run at a time, and meet
STUCK: Final = 60.0  # seconds without an end of a group: it hangs
HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PIECES: Final = tuple(
    [HEAD] * 12
    + [
        HEAD * 70,
        b"CONNECT a:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"y" * 40_000,
        b"\n\n",
        b"\r\n",
    ]
    + [b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"1\r\nx\r\n" * 5000, b"%x\r\n%b\r\n" % (5000, b"z" * 5000)]
    + [
        b"0\r\n\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"ffff\r\n",
        b"x" * 100,
        b"x" * 1000,
        b"A" * 300_000,
        b"\x16\x03\x01",
    ]
)


class Scenario:
    """One connection, its handler, and a peer that sends and reads at random."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        self._world, self._loop, self._number = world, world.loop, number
        self._chance = chance = random.Random(f"{seed} {number}")
        near, self._far = tcp_pair()
        near.setblocking(False)
        self._far.setblocking(False)
        if chance.random() < 0.3:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream = Stream(world.reactor, near.detach(), chance.random() < 0.4)
        stream.set_send_timeout(2)
        self.handler = Handler(world, random.Random(f"{seed} {number} handler"), stream)
        stream.handler = self.handler
        self._got = bytearray()
        self._ended = False
        self._side = chance.choice(["plain", "plain", "server", "client"])
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def run(self) -> None:
        try:
            if await self._begin():
                await self._talk()
                if self._chance.random() < 0.5:
                    self._stop_sending()
                if self._chance.random() < 0.7:
                    await self._read_all()
        except (Raised, OSError, ssl.SSLError):
            # Of a handler that was called by us, or of a peer that was cut.
            pass
        self._judge()
        self._far.close()
        await asyncio.sleep(0)
        self.handler.in_order = False
        self.handler.stream.abort()

    async def _begin(self) -> bool:
        handler, stream = self.handler, self.handler.stream
        if self._side == "plain":
            handler.on_handshake()
            return True
        if self._side == "server":
            context = self._world.peers_client
            self._tls = context.wrap_bio(self._in, self._out, server_hostname="reg.test")
            stream.start_tls(self._world.as_server, b"reg.test", False, TIMEOUT)
        else:
            self._tls = self._world.peers_server.wrap_bio(self._in, self._out, server_side=True)
            stream.start_tls(self._world.as_client, b"reg.test", False, TIMEOUT)
        while True:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
            await self._flush()
            data = await asyncio.wait_for(self._loop.sock_recv(self._far, 65_536), TIMEOUT)
            if not data:
                return False
            self._in.write(data)
        await self._flush()
        return handler.stream.open

    async def _flush(self) -> None:
        if self._out.pending:
            await asyncio.wait_for(self._loop.sock_sendall(self._far, self._out.read()), TIMEOUT)

    def _stop_sending(self) -> None:
        self._far.shutdown(socket.SHUT_WR)

    async def _talk(self) -> None:
        chance = self._chance
        for _ in range(chance.randrange(1, 12)):
            data = b"".join(chance.choices(PIECES, k=chance.randrange(1, 5)))
            if chance.random() < 0.1:
                place = chance.randrange(len(data))
                data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
            if not await self._say(data):
                return
            if chance.random() < 0.6:
                await self._hear(chance.choice([1, 1000, 1 << 20]))
            if chance.random() < 0.3:
                self._world.step(chance)
            if chance.random() < 0.1 and self.handler.stream.open:
                self.handler.act("from outside")

    async def _say(self, data: bytes) -> bool:
        """Send this, or as much of it as is taken soon; whether the peer can go on."""
        chance = self._chance
        if chance.random() < 0.3:
            data = data[: max(1, len(data) // 2)]
        self.handler.incoming += data
        if self._tls is not None:
            self._tls.write(data)
            data = self._out.read()
            if chance.random() < 0.03:
                # No TLS from here on.
                data = data[: len(data) // 2] + b"\0" * 100
                self.handler.at = None
        view = memoryview(data)
        for _ in range(50):
            try:
                view = view[self._far.send(view) :]
            except BlockingIOError:
                await self._hear(1 << 20)
            if not view:
                return True
            await asyncio.sleep(0)
        # It does not take it: nothing that comes later could be told from the rest of this.
        self.handler.at = None
        return False

    async def _hear(self, size: int) -> None:
        try:
            data = await self._receive(size, 0.003)
        except TimeoutError:
            return
        self._take(data)

    async def _receive(self, size: int, seconds: float) -> bytes:
        """Receive what comes first; TimeoutError if nothing comes.

        Not by wait_for: from Python 3.12 on it loses bytes that come at the same moment as its end.
        """
        readable = asyncio.Event()
        self._loop.add_reader(self._far, readable.set)
        try:
            async with asyncio.timeout(seconds):
                await readable.wait()
        finally:
            self._loop.remove_reader(self._far)
        return self._far.recv(size)

    def _take(self, data: bytes) -> None:
        if self._tls is None:
            self._ended = not data
            self._got += data
            return
        self._in.write(data)
        with suppress(ssl.SSLWantReadError):
            while True:
                try:
                    more = self._tls.read(1 << 20)
                except ssl.SSLZeroReturnError:
                    more = b""
                self._ended = not more
                if not more:
                    return
                self._got += more

    async def _read_all(self) -> None:
        """To its end, or until nothing comes any more."""
        while not self._ended:
            try:
                data = await self._receive(1 << 20, 0.02)
            except TimeoutError:
                return
            if not data and self._tls is not None:
                return
            self._take(data)

    def _judge(self) -> None:
        """The peer has what was sent, up to where it was cut; all of it behind an end that is in order."""
        handler = self.handler
        if not handler.known:
            return
        left, whole = memoryview(bytes(self._got)), True
        for sent in handler.sent:
            found = self._compare(left, sent)
            if found is None:
                return
            left, whole = found
            if not whole:
                break
        if left:
            self._wrong(f"{len(left)} bytes more than were given to it")
        if self._ended and handler.in_order:
            self._world.counts["whole"] += 1
            if not whole:
                self._wrong("its end is in order, and not all of it has come")

    def _compare(self, left: memoryview, sent: Sent) -> tuple[memoryview, bool] | None:
        """Take what this is off what is left; whether all of it was there. None: wrong, or not known."""
        want: bytes | None = sent.data
        if sent.of is not None:
            stop = sent.stop if sent.stop >= 0 else sent.of.written  # type: ignore[union-attr]
            want = read(sent.of, sent.start, stop)
        if want is None:
            return None
        if sent.chunked:
            return self._compare_chunks(left, want)
        size = min(len(want), len(left))
        if left[:size] != want[:size]:
            self._wrong("other bytes than were given to it")
            return None
        self._world.counts["compared"] += size
        return left[size:], size == len(want)

    def _compare_chunks(self, left: memoryview, want: bytes) -> tuple[memoryview, bool] | None:
        at = 0
        while True:
            line, found, _ = bytes(left[:20]).partition(b"\r\n")
            if not found:
                return left[:0], False
            size = int(line, 16)
            piece = left[len(line) + 2 :][:size]
            if piece != want[at : at + len(piece)] or (size == 0 and at != len(want)):
                self._wrong("other chunks than its source has")
                return None
            at += size
            self._world.counts["compared"] += len(piece)
            left = left[len(line) + 2 + size :]
            if len(left) < 2:
                return left[:0], False
            left = left[2:]
            if size == 0:
                return left, True

    def _wrong(self, what: str) -> None:
        self._world.wrong.append(f"scenario {self._number}, {self._side}: {what}")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive() -> tuple[int, int, int]:
    return stream_module.live(), tls.live(), file_module.live()


async def group(world: World, seed: int, number: int) -> None:
    """Scenarios that run at a time."""
    scenarios = [Scenario(world, number + offset, seed) for offset in range(GROUP)]
    world.handlers = [scenario.handler for scenario in scenarios]
    await asyncio.gather(*(scenario.run() for scenario in scenarios))


async def fuzz(directory: Path, seed: int, seconds: float, count: int, watch: bool) -> World:
    world = World(asyncio.get_running_loop(), directory)
    ends, number = time.monotonic() + seconds, 0
    while not world.wrong and (number < count if count else time.monotonic() < ends):
        if watch:
            faulthandler.dump_traceback_later(STUCK, exit=True)
        await group(world, seed, number)
        number += GROUP
        world.retire()
        if number % (50 * GROUP) == 0:
            gc.collect()
    world.counts["scenarios"] = number
    await settle(world)
    return world


async def settle(world: World) -> None:
    """End all, and let the loop go round until nobody holds anything."""
    world.handlers.clear()
    for growth in world.growths:
        growth.fail("over")
    while any(growth.hashing for growth in world.growths):
        await asyncio.sleep(0.01)
    for growth in world.growths:
        world.judge(growth)
    world.growths.clear()
    world.file = None
    world.wrong += ["a stream is open" for item in world.reactor.items() if isinstance(item, Stream)]
    for _ in range(20):
        await asyncio.sleep(0.01)
        gc.collect()
    world.reactor.stop()


def run(directory: Path, seed: int, *, seconds: float = 0.0, count: int = 0, watch: bool = False) -> World:
    """So many scenarios, or for so many seconds; `wrong` of what comes back is empty if all is well."""
    gc.collect()  # what others have left
    uvloop.new_event_loop().close()  # libuv keeps a pipe from its first loop on
    before, fds = alive(), descriptors()
    loop = uvloop.new_event_loop()
    try:
        world = loop.run_until_complete(fuzz(directory, seed, seconds, count, watch))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        if watch:
            faulthandler.cancel_dump_traceback_later()
    del world.reactor, loop
    world.loop = None  # type: ignore[assignment]
    gc.collect()
    if alive() != before:
        world.wrong.append(f"left: streams, SSL objects, files: {alive()}, {before} before")
    if descriptors() > fds:
        world.wrong.append(f"left: {descriptors() - fds} descriptors")
    return world


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=0, help="so many scenarios, however long they take")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="regproxy-fuzzing-") as place:
        world = run(Path(place), options.seed, seconds=options.seconds, count=options.count, watch=True)
    print(", ".join(f"{what} {count}" for what, count in world.counts.most_common()))
    for what in world.wrong:
        print(f"WRONG: {what}")
    return 1 if world.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
