"""What `tests.load.fuzzing` plays with: what its connections share, and handlers that act at random."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from regproxy.dataplane import tls_contexts
from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.body import Sink
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.sinks import BytesSink, StreamSink
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.splice import SpliceSink
from regproxy.dataplane.stream import Stream
from tests.support.trust import Trust

SIZE: Final = 3 << 20  # bytes of the file that is served
CONTENT: Final = random.Random("fuzzing").randbytes(SIZE)
ANSWER: Final = b"HTTP/1.1 200 OK\r\n\r\n"
TIMEOUT: Final = 5.0  # seconds, of any wait


class Raised(Exception):
    """What a handler raises on purpose."""


@dataclass(slots=True)
class Sent:
    """What a stream was given to send: bytes, or a source's from `start` to `stop`, -1 for its end."""

    data: bytes = b""
    of: GrowingFile | File | None = None
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
        self.handlers: list[Handler] = []  # of the scenarios that run
        self.growths: list[GrowingFile] = []
        path = directory / "content"
        path.write_bytes(CONTENT)
        self.file: File | None = File(os.open(path, os.O_RDONLY | os.O_CLOEXEC), SIZE, loop)
        trust = Trust(directory)
        pair = trust.server("reg.test")
        self.as_server = tls_contexts.server_context(pair.chain.read_bytes(), pair.key.read_bytes())
        self.as_client = tls_contexts.client_context(extra_ca_file=str(trust.path))
        self.peers_server = trust.server_context("reg.test")
        self.peers_client = ssl.create_default_context(cafile=str(trust.path))
        loop.set_exception_handler(self._raised)

    def _raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Raised):
            self.counts["raised"] += 1
        else:
            self.wrong.append(f"raised: {error!r}: {context.get('message')}")

    def growth(self, chance: random.Random) -> GrowingFile:
        """One that grows, or a new one."""
        growing = [growth for growth in self.growths if not growth.done and not growth.failed]
        if growing and chance.random() < 0.6:
            return chance.choice(growing)
        file = File(os.memfd_create("part", os.MFD_CLOEXEC), -1, self.loop)
        growth = GrowingFile(file, chance.choice([0, 0, 100_000]))
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

    def judge(self, growth: GrowingFile) -> None:
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


def read(of: GrowingFile | File, start: int, stop: int) -> bytes | None:
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

    def on_connect(self, host: object, port: int, login: object) -> None:
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
            if why == "on_head" and not self._over and chance.random() < 0.4:
                self._receive()
            else:
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
            case 14 | 15 if world.handlers:
                other = chance.choice(world.handlers)
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
            case 0 if world.handlers:
                other = chance.choice(world.handlers)
                other.known = False
                if chance.random() < 0.5:
                    return SpliceSink(other.stream)
                return StreamSink(other.stream, chance.random() < 0.5)
            case 1 | 2:
                growth = world.growth(chance)
                if growth.extents is None or growth.total < 0:
                    return growth
                start = chance.randrange(0, growth.total, BLOCK_SIZE)
                stop = min(growth.total, start + chance.choice([BLOCK_SIZE, 3 * BLOCK_SIZE, 1 << 20]))
                if chance.random() < 0.1:
                    stop += chance.choice([1, BLOCK_SIZE, 1 << 62])
                return RangeWriter(growth, start, stop, stop + chance.choice([0, BLOCK_SIZE]))
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
