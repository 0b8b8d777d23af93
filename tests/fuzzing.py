"""Random handlers and peers on the data plane's classes, in one process, without any proxy.

    python -m tests.fuzzing --seconds 60 [--seed N]

Handlers do whatever they may at any call: send, receive, close, abort another stream, fail. What must hold:
each stream sends exactly what it was given, up to where it was cut, and all of it where its end is in order;
bodies that are complete are what was sent; what is hashed is what is in the file; nothing raises but the
handlers themselves; and in the end no stream, SSL object, file or descriptor is left. `python -m
tests.sanitized` runs it with AddressSanitizer.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import hashlib
import os
import random
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from regproxy import _relay, _stream, _tls
from regproxy._extents import BLOCK_SIZE, Extents
from regproxy._reactor import Reactor
from regproxy._relay import BytesSink, File, FileSource, Growth, Segment, StreamSink
from regproxy._stream import Sink, Stream
from tests.parts.trust import Trust
from tests.test_relay import tcp_pair

SIZE: Final = 3 << 20  # bytes of the file that is served
CONTENT: Final = random.Random("fuzzing").randbytes(SIZE)
ANSWER: Final = b"HTTP/1.1 200 OK\r\n\r\n"
GROUP: Final = 8  # scenarios that run at a time, and meet
STUCK: Final = 60.0  # seconds without an end of a group: it hangs
TIMEOUT: Final = 5.0
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


class Raised(Exception):
    """What a handler raises on purpose."""


@dataclass(slots=True)
class Sent:
    """What a stream was given to send: bytes, or a source's from `start` to `stop`, -1 for its end."""

    data: bytes = b""
    of: Growth | File | None = None
    start: int = 0
    stop: int = 0
    chunked: bool = False


class World:
    """What the scenarios share: a reactor, a file, and parts that grow. `wrong` is what did not hold."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.loop = loop
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.reactor = Reactor(loop)
        self.reactor.start()
        self.scenarios: list[Scenario] = []
        self.growths: list[Growth] = []
        path = directory / "content"
        path.write_bytes(CONTENT)
        self.file: File | None = File(os.open(path, os.O_RDONLY | os.O_CLOEXEC), SIZE, loop)
        trust = Trust(directory)
        pair = trust.server("reg.test")
        self.as_server = _tls.server_context(pair.chain.read_bytes(), pair.key.read_bytes())
        self.as_client = _tls.client_context(extra_ca_file=str(trust.path))
        self.peers_server = trust.server_context("reg.test")
        self.peers_client = ssl.create_default_context(cafile=str(trust.path))
        loop.set_exception_handler(self._raised)

    def _raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Raised):
            self.counts["raised"] += 1
        else:
            self.wrong.append(f"raised: {error!r}: {context.get('message')}")

    def growth(self, chance: random.Random) -> Growth:
        """One that grows, or a new one."""
        growing = [growth for growth in self.growths if not growth.done and not growth.failed]
        if growing and chance.random() < 0.6:
            return chance.choice(growing)
        file = File(os.memfd_create("part", os.MFD_CLOEXEC), -1, self.loop)
        growth = Growth(file, chance.choice([0, 0, 100_000]))
        if chance.random() < 0.4:
            total = chance.choice([1, 300_001, 1 << 20, 5 << 20])
            extents = Extents(total, os.memfd_create("map", os.MFD_CLOEXEC) if chance.random() < 0.5 else -1)
            extents.start(1, 2, 0)
            growth.scatter(extents)
        elif chance.random() < 0.5:
            growth.expect(chance.choice([0, 100, 70_000, 300_000]))
        self.growths.append(growth)
        return growth

    def step(self, chance: random.Random) -> None:
        """Something happens to a part."""
        if not self.growths:
            return
        growth = chance.choice(self.growths)
        match chance.randrange(6):
            case 0:
                growth.fail("it was given up")
            case 1 if growth.extents is None and not growth.done:
                growth.finish()
            case 2 if growth.extents is None and not growth.done:
                growth.relay(28)
            case 3 if growth.memory is None:
                growth.refresh()
            case 4:
                growth.wanted()
            case 5:
                growth.let_go()

    def retire(self) -> None:
        """Let go of parts that have ended, and of some others; each is looked at."""
        kept = self.growths[-6:]
        for growth in self.growths[:-6]:
            growth.fail("over")
            self.judge(growth)
        self.growths = kept

    def judge(self, growth: Growth) -> None:
        """What was hashed must be what can be read."""
        if growth.hashing:
            return
        try:
            growth.catch_up()
        except OSError:
            if growth.memory is None:
                self.wrong.append("what was written can't be read again")
            return
        found = read(growth, 0, growth.written)
        if found is not None and growth.hexdigest() != hashlib.sha256(found).hexdigest():
            self.wrong.append(f"the hash of {growth.written} bytes is not the content's")


def read(of: Growth | File, start: int, stop: int) -> bytes | None:
    """What is there now; None where that is no longer known."""
    if isinstance(of, File):
        return CONTENT[start:stop]
    if of.memory is None:
        return os.pread(of.file.fd, max(stop - start, 0), start)
    if of.floor > of.disk_end:
        return None
    end = min(stop, of.disk_end)
    ahead = os.pread(of.file.fd, max(end - start, 0), start)
    return ahead + os.pread(of.memory.fd, max(stop - max(start, end), 0), max(start, end))


class Handler:
    """Does something at random whatever it is told, and remembers what it asked for."""

    def __init__(self, world: World, chance: random.Random, stream: Stream) -> None:
        self._world, self._chance, self.stream = world, chance, stream
        self.sent: list[Sent] = []
        self.busy = False
        self.known = True  # whether what the peer gets can be told
        self.in_order = False  # it was closed with nothing cut
        self._sink: tuple[BytesSink, str, int] | None = None
        self.at: int | None = 0  # how much of what comes in has been taken; None: not known
        self.incoming = bytearray()
        self._receiving = False
        self._waiting = False  # for a head
        self._ended = self._over = False  # nothing is sent, nor anything asked for, any more
        self._depth = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args: self.act(name)

    def on_handshake(self) -> None:
        self._next_head()

    def on_sent(self) -> None:
        self.busy = False
        self.act("on_sent")

    def on_source_failed(self, reason: str) -> None:
        # What comes behind it can't be told from it.
        self.known = False
        self.act("on_source_failed")

    def on_head(self, head: bytes) -> None:
        self._waiting = False
        if self.at is not None:
            begin = self.incoming.find(head, self.at)
            if begin < 0 or self.incoming[self.at : begin].strip(b"\r\n"):
                self._world.wrong.append(f"a head that was not sent: {head[:60]!r}")
            self.at = begin + len(head)
        self.act("on_head")

    def on_connect(self, host: object, port: int) -> None:
        self.at = None
        self.act("on_connect")

    def on_body(self, complete: bool, reason: str) -> None:
        sink, self._sink, self._receiving = self._sink, None, False
        if sink is None or self.at is None or not complete:
            self.at = None
        else:
            self._judge(*sink, self.at)
        self.act("on_body")

    def _judge(self, sink: BytesSink, framing: str, length: int, at: int) -> None:
        """A body that is complete is what was sent."""
        if framing == "chunked":
            want, end = dechunk(self.incoming, at)
        else:
            end = at + length if framing == "length" else len(self.incoming)
            want = bytes(self.incoming[at:end])
        self._world.counts[f"a {framing} body"] += 1
        if sink.data != want:
            self._world.wrong.append(f"a {framing} body of {len(want)} bytes came as {len(sink.data)} others")
        self.at = end

    def act(self, why: str) -> None:
        stream, chance, world = self.stream, self._chance, self._world
        world.counts[why] += 1
        if not stream.open or self._depth > 20:
            return
        self._depth += 1
        try:
            self._act(stream, chance, world)
        finally:
            self._depth -= 1

    def _act(self, stream: Stream, chance: random.Random, world: World) -> None:
        # Who has ended it asks nothing of it any more.
        match chance.choice([1, 2, 14, 15, 16]) if self._over else chance.randrange(26):
            case 0:
                self.close(chance.random() < 0.5)
            case 1:
                self.abort()
            case 2:
                # It is closed for that, whatever is under way.
                self.in_order = False
                raise Raised
            case 3 | 4 | 5:
                self._receive()
            case 6:
                self._leave_body()
                stream.pause()
            case 7 | 8 | 9 | 10:
                self._send()
            case 11:
                self._ended = True
                stream.shut_write()
            case 12:
                self._leave_body()
                if stream.watch_idle(1) and stream.reusable() and chance.random() < 0.7:
                    self._next_head()
            case 13 if not self._ended:
                self._note(Sent(b"0\r\n\r\n"))
                self.busy = not stream.end_chunks() or self.busy
            case 14 | 15 if world.scenarios:
                other = chance.choice(world.scenarios).handler
                other.abort() if chance.random() < 0.5 else other.close(False)
            case 16:
                world.step(chance)
            case 17:
                stream.notify_sent()
            case 18:
                stream.extend_read(1)
            case _:
                self._next_head()

    def abort(self) -> None:
        self.in_order = False
        self.stream.abort()

    def close(self, linger: bool) -> None:
        if self.stream.open:
            self.in_order = self.in_order if self._ended else not self.busy
            self._ended = self._over = True
            self.stream.close(linger)

    def _note(self, sent: Sent) -> None:
        if self.busy:
            # A body is under way: whoever does this has lost count himself.
            self.known = False
        self.sent.append(sent)

    def _send(self) -> None:
        if self._ended or (self.busy and self._chance.random() < 0.95):
            return
        body = b"x" * self._chance.choice([0, 10, 400_000])
        source, sent = self._source()
        last = self._chance.random() < 0.2
        self._note(Sent(ANSWER + body))
        if sent is not None:
            self._note(sent)
        self._ended = self._over = last
        self.in_order = last and source is None and not self.busy
        self.busy = not self.stream.send(ANSWER, body, source, sent is not None and sent.chunked, last)

    def _source(self) -> tuple[FileSource | None, Sent | None]:
        chance, file = self._chance, self._world.file
        assert file is not None
        if chance.random() < 0.25:
            return None, None
        chunked = chance.random() < 0.4
        if chance.random() < 0.5:
            start = chance.randrange(SIZE)
            stop = chance.choice([SIZE, min(start + 1000, SIZE)])
            return FileSource(file, start, stop), Sent(b"", file, start, stop, chunked)
        growth = self._world.growth(chance)
        start = 0 if growth.total <= 0 else chance.choice([0, chance.randrange(growth.total)])
        stop = growth.total if growth.total > 0 else -1
        return FileSource(growth.file, start, stop, growth), Sent(b"", growth, start, stop, chunked)

    def _leave_body(self) -> None:
        if self._receiving:
            # How much of it has been taken is not told.
            self.at = self._sink = None

    def _next_head(self) -> None:
        self._leave_body()
        self._waiting = True
        self.stream.next_head(TIMEOUT, TIMEOUT)

    def _receive(self) -> None:
        chance = self._chance
        framing = chance.choice(["length", "chunked", "eof"])
        length = chance.choice([0, 1, 5, 100, 70_000])
        sink = self._pick()
        self._leave_body()
        if self._waiting:
            # Empty lines ahead of a head may be gone already.
            self.at = None
        self._sink = (sink, framing, length) if isinstance(sink, BytesSink) else None
        self._receiving = True
        self.stream.receive(sink, framing, length, TIMEOUT)

    def _pick(self) -> Sink:
        chance, world = self._chance, self._world
        match chance.randrange(5):
            case 0 if world.scenarios:
                other = chance.choice(world.scenarios).handler
                other.known = False
                return StreamSink(other.stream, chance.random() < 0.5)
            case 1 | 2:
                growth = world.growth(chance)
                if growth.extents is None or growth.total < 0:
                    return growth
                start = chance.randrange(0, growth.total, BLOCK_SIZE)
                stop = min(growth.total, start + chance.choice([BLOCK_SIZE, 3 * BLOCK_SIZE, 1 << 20]))
                if chance.random() < 0.1:
                    stop += chance.choice([1, BLOCK_SIZE, 1 << 62])
                return Segment(growth, start, stop, stop + chance.choice([0, BLOCK_SIZE]))
        return BytesSink(chance.choice([0, 10, 100_000, 1 << 20]))


def dechunk(data: bytearray, at: int) -> tuple[bytes, int]:
    """Decode a whole body in the chunked coding from `at` on; what it says, and where it ends."""
    parts = []
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].split(b";")[0].strip(), 16)
        at = line + 2
        if size == 0:
            break
        parts.append(bytes(data[at : at + size]))
        at += size + 2
    while (line := data.index(b"\r\n", at)) > at:
        at = line + 2
    return b"".join(parts), at + 2


class Scenario:
    """One connection, its handler, and a peer that sends and reads at random."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        self._world, self._loop = world, world.loop
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
            data = await asyncio.wait_for(self._loop.sock_recv(self._far, size), 0.003)
        except TimeoutError:
            return
        self._take(data)

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
                data = await asyncio.wait_for(self._loop.sock_recv(self._far, 1 << 20), 0.02)
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
        left = memoryview(bytes(self._got))
        for sent in handler.sent:
            if not left:
                break
            left = self._compare(left, sent)
        else:
            if left:
                self._wrong(f"{len(left)} bytes more than were given to it")
            return
        if self._ended and handler.in_order:
            self._wrong("its end is in order, and not all of it has come")

    def _compare(self, left: memoryview, sent: Sent) -> memoryview:
        """Take what this is off what is left."""
        if sent.of is None:
            size = min(len(sent.data), len(left))
            if left[:size] != sent.data[:size]:
                self._wrong("other bytes than were given to it")
            return left[size:]
        stop = sent.stop if sent.stop >= 0 else sent.of.written  # type: ignore[union-attr]
        want = read(sent.of, sent.start, stop)
        if want is None:
            return left[:0]
        if not sent.chunked:
            size = min(len(want), len(left))
            if left[:size] != want[:size]:
                self._wrong(f"other bytes than its source has from {sent.start} on")
            self._world.counts["compared"] += size
            return left[size:]
        return self._compare_chunks(left, want)

    def _compare_chunks(self, left: memoryview, want: bytes) -> memoryview:
        at = 0
        while left:
            line, found, _ = bytes(left[:20]).partition(b"\r\n")
            if not found:
                return left[:0]
            size = int(line, 16)
            piece = left[len(line) + 2 :][:size]
            if piece != want[at : at + len(piece)] or (size == 0 and at != len(want)):
                self._wrong("other chunks than its source has")
                return left[:0]
            at += size
            self._world.counts["compared"] += len(piece)
            left = left[len(line) + 2 + size + 2 :]
            if size == 0:
                break
        return left

    def _wrong(self, what: str) -> None:
        self._world.wrong.append(f"{self._side}: {what}")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive() -> tuple[int, int, int]:
    return _stream.live(), _tls.live(), _relay.live()


async def fuzz(directory: Path, seed: int, seconds: float, count: int, watch: bool) -> World:
    world = World(asyncio.get_running_loop(), directory)
    ends, number = time.monotonic() + seconds, 0
    while not world.wrong and (number < count if count else time.monotonic() < ends):
        if watch:
            faulthandler.dump_traceback_later(STUCK, exit=True)
        world.scenarios = [Scenario(world, number + offset, seed) for offset in range(GROUP)]
        await asyncio.gather(*(scenario.run() for scenario in world.scenarios))
        number += GROUP
        world.retire()
        if number % (50 * GROUP) == 0:
            gc.collect()
    world.counts["scenarios"] = number
    await settle(world)
    return world


async def settle(world: World) -> None:
    """End all, and let the loop go round until nobody holds anything."""
    world.scenarios.clear()
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
    if descriptors() != fds:
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
