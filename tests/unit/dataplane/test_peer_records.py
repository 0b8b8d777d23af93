"""Records of an origin's large body, opened by us and by OpenSSL: the same bytes, the same ends."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from regproxy.dataplane.sinks import BytesSink
from tests.support.plane import LIMIT, Event, Plane, Run, plane, run
from tests.support.tls_peer import Peer
from tests.support.tls_records import ALERT, DATA, HANDSHAKE, KEY_UPDATE, TICKET, Keys
from tests.support.trust import Trust

__all__ = ["plane", "run"]  # fixtures

RECORD = 16_384
LEAD = bytes(range(256)) * 1024  # 256 KiB: twice what makes it a large body
MORE = b"and more" * 1000
ENOUGH = 1 << 20
HEAD = b"GET / HTTP/1.1\r\n\r\n"
CONTROLS = 32
FLOOD = "the peer sends too many TLS records without data"
BAD_MAC = "decryption failed or bad record mac"


@pytest.fixture
def peer(plane: Plane, trust: Trust, tmp_path: Path) -> Peer:
    return Peer(plane, trust, tmp_path / "keys")


@pytest.fixture(params=[True, False], ids=["ours", "OpenSSL's"])
def opens(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def data(keys: Keys, content: bytes) -> bytes:
    return b"".join(
        keys.seal(DATA, content[start : start + RECORD]) for start in range(0, len(content), RECORD)
    )


def updated(keys: Keys, update: bytes) -> bytes:
    record = keys.seal(HANDSHAKE, update)
    keys.update()
    return record


def changed(record: bytes, place: int) -> bytes:
    return record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]


def padded(keys: Keys, kind: int, content: bytes, zeros: int) -> bytes:
    """The last zero is where seal() has the type."""
    return keys.seal(0, content + bytes([kind]) + bytes(zeros - 1))


def in_pieces(keys: Keys, message: bytes) -> bytes:
    return b"".join(keys.seal(HANDSHAKE, message[at : at + 3]) for at in range(0, len(message), 3))


def long_ticket(size: int) -> bytes:
    """A ticket of so many bytes in all."""
    inner = size - 4 - 15 + 1
    return b"\x04" + (size - 4).to_bytes(3) + bytes(8) + b"\x01n" + inner.to_bytes(2) + bytes(inner) + b"\0\0"


def replayed(keys: Keys) -> bytes:
    record = data(keys, b"old")
    return record + record


def swapped(keys: Keys) -> bytes:
    first, second = data(keys, b"first"), data(keys, b"second")
    return second + first


Tail = Callable[[Keys], bytes]

# What the body goes on with: more of it follows, as if nothing had been there.
PASSED_OVER: dict[str, Tail] = {
    "nothing": lambda keys: b"",
    "a ticket": lambda keys: keys.seal(HANDSHAKE, TICKET),
    "two in one record": lambda keys: keys.seal(HANDSHAKE, TICKET + TICKET),
    "a ticket in pieces": lambda keys: in_pieces(keys, TICKET),
    "a ticket in two records": lambda keys: b"".join(
        keys.seal(HANDSHAKE, part) for part in (long_ticket(20_000)[:RECORD], long_ticket(20_000)[RECORD:])
    ),
    "a KeyUpdate": lambda keys: updated(keys, KEY_UPDATE[False]),
    "one that wants an answer": lambda keys: updated(keys, KEY_UPDATE[True]),
    "several": lambda keys: b"".join(updated(keys, KEY_UPDATE[n % 2 == 0]) for n in range(9)),
    "behind a ticket": lambda keys: updated(keys, TICKET + KEY_UPDATE[False]),
    "in pieces": lambda keys: (
        keys.seal(HANDSHAKE, KEY_UPDATE[True][:2]) + updated(keys, KEY_UPDATE[True][2:])
    ),
    "user canceled": lambda keys: keys.seal(ALERT, b"\x01\x5a"),
    "an empty record": lambda keys: keys.seal(DATA, b""),
    "as many as may be": lambda keys: b"".join(keys.seal(DATA, b"") for _ in range(CONTROLS - 1)),
}

# What ends it, and how.
ENDS: dict[str, tuple[Tail, Event]] = {
    "a closure alert": (lambda keys: keys.seal(ALERT, b"\x01\0"), ("body", True, "")),
    "a fatal one": (lambda keys: keys.seal(ALERT, b"\x02\0"), ("body", True, "")),
    "internal error": (lambda keys: keys.seal(ALERT, b"\x02\x50"), ("closed", "tlsv1 alert internal error")),
    "as a warning": (lambda keys: keys.seal(ALERT, b"\x01\x50"), ("closed", "tlsv1 alert internal error")),
    "two alerts": (lambda keys: keys.seal(ALERT, b"\x01\0\x01\0"), ("closed", "invalid alert")),
    "half an alert": (lambda keys: keys.seal(ALERT, b"\x01"), ("closed", "invalid alert")),
    "another MAC": (lambda keys: changed(data(keys, MORE), -1), ("closed", BAD_MAC)),
    "another byte": (lambda keys: changed(data(keys, MORE), 100), ("closed", BAD_MAC)),
    "another header": (lambda keys: changed(data(keys, MORE), 2), ("closed", "wrong version number")),
    "too short for a MAC": (lambda keys: b"\x17\x03\x03\0\x08" + bytes(8), ("closed", BAD_MAC)),
    "a record again": (replayed, ("closed", BAD_MAC)),
    "records in another order": (swapped, ("closed", BAD_MAC)),
    "keys that nobody has announced": (
        lambda keys: updated(keys, KEY_UPDATE[False])[:0] + data(keys, MORE),
        ("closed", BAD_MAC),
    ),
    "only zeros": (lambda keys: keys.seal(0, bytes(100)), ("closed", "bad record type")),
    "a type that is none": (lambda keys: keys.seal(99, MORE), ("closed", "bad record type")),
    "a plain alert": (lambda keys: b"\x15\x03\x03\0\x02\x01\0", ("closed", "bad record type")),
    "plain data": (lambda keys: b"\x17\x03\x03\0\x64" + bytes(100), ("closed", BAD_MAC)),
    "too much in it": (lambda keys: keys.seal(DATA, bytes(RECORD + 1)), ("closed", "data length too long")),
    "too long": (
        lambda keys: padded(keys, DATA, bytes(RECORD), 256),
        ("closed", "encrypted length too long"),
    ),
    "a Finished": (
        lambda keys: keys.seal(HANDSHAKE, b"\x14\0\0\x20" + bytes(32)),
        ("closed", "unexpected message"),
    ),
    "a KeyUpdate too long": (
        lambda keys: keys.seal(HANDSHAKE, b"\x18\0\0\x02\0\0"),
        ("closed", "excessive message size"),
    ),
    "a KeyUpdate that says 2": (
        lambda keys: keys.seal(HANDSHAKE, b"\x18\0\0\x01\x02"),
        ("closed", "bad key update"),
    ),
    "a KeyUpdate ahead of a ticket": (
        lambda keys: keys.seal(HANDSHAKE, KEY_UPDATE[False] + TICKET),
        ("closed", "not on record boundary"),
    ),
    "data within a message": (
        lambda keys: keys.seal(HANDSHAKE, TICKET[:9]) + data(keys, MORE),
        ("closed", "unexpected record"),
    ),
    "a ticket that is too long": (
        lambda keys: keys.seal(HANDSHAKE, b"\x04\xff\xff\xff" + bytes(99)),
        ("closed", "excessive message size"),
    ),
    "tickets": (
        lambda keys: b"".join(keys.seal(HANDSHAKE, TICKET) for _ in range(CONTROLS + 1)),
        ("closed", FLOOD),
    ),
}


class Body:
    """A body that ends with the connection, of which LEAD has been sent."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sink = BytesSink(ENOUGH)

    async def begin(self, *, opens: bool) -> None:
        await self.peer.begin(origin=True, context=self.peer.asking(opens=opens))
        keys, tls = self.peer.keys, self.peer.stream.tls
        assert isinstance(keys, Keys) and tls is not None
        self.keys, self.tls = keys, tls
        self.peer.stream.receive(self.sink, "eof", 0, LIMIT)
        await self.peer.send(data(self.keys, LEAD))


@pytest.mark.parametrize("tail", PASSED_OVER.values(), ids=PASSED_OVER)
def test_what_is_no_data(tail: Tail, opens: bool, peer: Peer, run: Run) -> None:
    if tail is PASSED_OVER["user canceled"] and not opens and ssl.OPENSSL_VERSION_INFO >= (3, 2):
        pytest.skip(
            "OpenSSL from 3.2 on stops reading at user_canceled, though RFC 8446 6.1 has a closure follow"
        )

    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        await peer.send(tail(body.keys) + data(body.keys, MORE))
        await peer.send(body.keys.seal(ALERT, b"\x01\0"))
        assert await peer.told.next() == ("body", True, "")
        assert body.sink.data == LEAD + MORE
        assert body.tls.opened == opens and not body.tls.keeps_secret

    run(test())


@pytest.mark.parametrize("tail, event", ENDS.values(), ids=ENDS)
def test_ends(tail: Tail, event: Event, opens: bool, peer: Peer, run: Run) -> None:
    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        await peer.send(data(body.keys, MORE) + tail(body.keys) + b"\x17\x03\x03")
        assert await peer.told.next() == event
        assert body.sink.data.startswith(LEAD + MORE)
        assert body.tls.opened == opens

    run(test())


def test_an_answer_to_a_key_update(opens: bool, peer: Peer, run: Run) -> None:
    """It comes at once, by OpenSSL with what we send next, which is under the keys that it has announced."""

    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        await peer.send(data(body.keys, MORE) + updated(body.keys, KEY_UPDATE[True]) + data(body.keys, MORE))
        if opens:
            await peer.answer()
        peer.stream.send(HEAD)
        assert await peer.read(len(HEAD)) == HEAD
        assert isinstance(peer.ours, Keys) and peer.ours.sequence == 1
        assert body.tls.opened == opens

    run(test())


def test_a_key_update_ahead_of_a_large_body(peer: Peer, run: Run) -> None:
    """The secret that was kept is not that of its records: OpenSSL opens them."""

    async def test() -> None:
        await peer.begin(origin=True, context=peer.asking(opens=True))
        tls, sink = peer.stream.tls, BytesSink(ENOUGH)
        assert isinstance(peer.keys, Keys) and tls is not None
        peer.stream.receive(sink, "length", len(LEAD + MORE), LIMIT)
        await peer.send(updated(peer.keys, KEY_UPDATE[False]) + data(peer.keys, LEAD) + data(peer.keys, MORE))
        assert await peer.told.next() == ("body", True, "")
        assert sink.data == LEAD + MORE
        assert not tls.opened and not tls.keeps_secret

    run(test())


def test_empty_records(opens: bool, peer: Peer, run: Run) -> None:
    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        await peer.send(
            data(body.keys, MORE) + b"".join(body.keys.seal(DATA, b"") for _ in range(CONTROLS + 1))
        )
        assert await peer.told.next() == ("closed", FLOOD if opens else "record too small")

    run(test())


@pytest.mark.parametrize("cut", [1, 5, 6, 100, RECORD + 21])
def test_an_end_within_a_record(cut: int, opens: bool, peer: Peer, run: Run) -> None:
    """Without a closure alert; what is not authentic yet is nothing."""

    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        await peer.send(data(body.keys, MORE) + data(body.keys, bytes(RECORD))[:cut])
        peer.far.close()
        event = await peer.told.next()
        assert body.sink.data == LEAD + MORE
        assert event[:2] == ("body", False)

    run(test())


def test_records_of_any_size_in_pieces_of_any_size(opens: bool, peer: Peer, run: Run) -> None:
    """Wherever a record ends within what is read at once."""

    async def test() -> None:
        body = Body(peer)
        await body.begin(opens=opens)
        sizes = [1, 2, 22, 100, 1000, RECORD - 1, RECORD, *range(240, 300)]
        content = [bytes([n % 251]) * size for n, size in enumerate(sizes * 3)]
        wire = b"".join(
            padded(body.keys, DATA, part, n % 7 + 1)
            if n % 3 == 0 and len(part) < 9999
            else data(body.keys, part)
            for n, part in enumerate(content)
        ) + body.keys.seal(ALERT, b"\x01\0")
        at, step = 0, 1
        while at < len(wire):
            await peer.send(wire[at : at + step])
            await peer.plane.turns(1)
            at, step = at + step, step * 7 % 9973 + 1
        assert await peer.told.next() == ("body", True, "")
        assert body.sink.data == LEAD + b"".join(content)
        assert body.tls.opened == opens

    run(test())


def test_an_answer_behind_a_large_body(opens: bool, peer: Peer, run: Run) -> None:
    """On the same connection, which is idle meanwhile; half a record that is there is no idle connection."""

    async def test() -> None:
        await peer.begin(origin=True, context=peer.asking(opens=opens))
        stream, tls = peer.stream, peer.stream.tls
        assert isinstance(peer.keys, Keys) and tls is not None
        for _ in range(3):
            sink = BytesSink(ENOUGH)
            stream.receive(sink, "length", len(LEAD), LIMIT)
            await peer.send(data(peer.keys, LEAD))
            assert await peer.told.next() == ("body", True, "")
            assert sink.data == LEAD
            assert stream.watch_idle(LIMIT) and stream.reusable()
            stream.next_head(LIMIT, LIMIT)
            await peer.send(peer.keys.seal(DATA, HEAD))
            assert await peer.told.next() == ("head", HEAD)
        assert tls.opened == opens
        stream.receive(BytesSink(ENOUGH), "length", len(MORE), LIMIT)
        await peer.send(data(peer.keys, MORE) + data(peer.keys, MORE)[:99])
        assert await peer.told.next() == ("body", True, "")
        assert not stream.watch_idle(LIMIT)

    run(test())
