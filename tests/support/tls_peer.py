"""The far end of a stream that has TLS: it does the handshake, and then writes and reads records by hand."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

from regproxy.dataplane.file import File
from regproxy.dataplane.tls_contexts import Context, client_context, server_context
from tests.support.plane import LIMIT, Plane
from tests.support.tls_records import ALERT, DATA, HANDSHAKE, HEADER, KEY_UPDATE, Keys, Shaker, split
from tests.support.trust import Trust

NAME = "reg.test"


class Peer:
    """The other end of a stream that is through its handshake; `keys` are the peer's, `ours` the stream's."""

    def __init__(self, plane: Plane, trust: Trust, log: Path) -> None:
        self.plane, self._trust, self._log = plane, trust, log
        self._left = b""

    def serving(self, *, seals: bool = True, ktls: bool = False) -> Context:
        pair = self._trust.server(NAME)
        return server_context(pair.chain.read_bytes(), pair.key.read_bytes(), ktls, seals)

    def asking(self, *, opens: bool = False) -> Context:
        return client_context(True, str(self._trust.path), opens=opens)

    async def begin(
        self, *, old: bool = False, origin: bool = False, context: Context | None = None, pieces: int = 0
    ) -> None:
        """`origin`: the stream is the client. `pieces`: a first flight cut into so many records."""
        self.stream, self.told, self.far = self.plane.stream(buffer=65_536)
        if origin:
            shaker = Shaker(self._trust.server_context(NAME), self._log, name=None, old=old)
            context = context or self.asking()
        else:
            client = self._trust.client_context()
            client.set_alpn_protocols(["http/1.1", "x" * 200])  # a first flight of more than 400 bytes
            shaker = Shaker(client, self._log, name=NAME, old=old)
        self.stream.start_tls(context or self.serving(), NAME.encode(), False, LIMIT)
        out, done = (b"", False) if origin else shaker.step(b"")
        out = cut(out, pieces) if pieces else out
        while True:
            await self.send(out)
            if done:
                break
            wire = await asyncio.wait_for(self.plane.loop.sock_recv(self.far, 65_536), LIMIT)
            if not wire:
                return
            out, done = shaker.step(wire)
        if not self.stream.tls or not self.stream.tls.established:
            assert await self.told.next() == ("handshake",)
        else:
            await self.told.next()
        self.keys, self.ours = shaker.keys()

    def file(self, data: bytes) -> File:
        path = self._log.with_name("body")
        path.write_bytes(data)
        return self.plane.file(path)

    async def send(self, data: bytes) -> None:
        """All of it, unless the stream is closed meanwhile."""
        try:
            await asyncio.wait_for(self.plane.loop.sock_sendall(self.far, data), LIMIT)
        except ConnectionError:
            assert not self.stream.open

    def updates(self, count: int, *, wanted: bool) -> bytes:
        """KeyUpdates, each under the keys that the one ahead of it has brought."""
        assert isinstance(self.keys, Keys)
        records = []
        for _ in range(count):
            records.append(self.keys.seal(HANDSHAKE, KEY_UPDATE[wanted]))
            self.keys.update()
        return b"".join(records)

    async def answer(self) -> None:
        """Take the answer to a KeyUpdate, which announces our next keys."""
        assert isinstance(self.ours, Keys)
        records, self._left = split(self._left)
        while not records:
            wire = await asyncio.wait_for(self.plane.loop.sock_recv(self.far, 65_536), LIMIT)
            assert wire
            records, self._left = split(self._left + wire)
        (record,) = records
        assert self.ours.open(record) == (HANDSHAKE, KEY_UPDATE[False])
        self.ours.update()

    async def read(self, size: int) -> bytes:
        """So much data, or what there was ahead of an end without a closure alert."""
        assert isinstance(self.ours, Keys)
        got = b""
        while len(got) < size:
            records, self._left = split(self._left)
            for record in records:
                kind, data = self.ours.open(record)
                if kind == DATA:
                    got += data
                elif kind == HANDSHAKE:
                    assert data == KEY_UPDATE[False]
                    self.ours.update()
                else:
                    assert (kind, data) == (ALERT, b"\x01\0")
                    return got
            if len(got) < size:
                wire = await asyncio.wait_for(self.plane.loop.sock_recv(self.far, 65_536), LIMIT)
                if not wire:
                    return got
                self._left += wire
        return got


def cut(flight: bytes, pieces: int) -> bytes:
    """One plain record as `pieces` of them."""
    (record,), rest = split(flight)
    assert rest == b""
    ends = [HEADER + (len(record) - HEADER) * part // pieces for part in range(pieces + 1)]
    parts = [record[start:end] for start, end in pairwise(ends)]
    return b"".join(record[:3] + len(part).to_bytes(2) + part for part in parts)
