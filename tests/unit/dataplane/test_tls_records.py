"""TLS records made by hand, in memory: floods of those without data, and who makes our side's."""

from __future__ import annotations

from pathlib import Path

import pytest

from regproxy.dataplane.sinks import BytesSink
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.tls_contexts import client_context
from tests.support.plane import LIMIT, Plane, Run, plane, run
from tests.support.tls_peer import Peer
from tests.support.tls_records import (
    CLIENT_HELLO,
    DATA,
    HANDSHAKE,
    HELLO_REQUEST,
    TICKET,
)
from tests.support.trust import Trust

__all__ = ["plane", "run"]  # fixtures

MIB = 1 << 20
CONTROLS = 32  # records without data that a peer may send, and one more for each MiB of data
SEAL_AFTER = 16  # records, and ours are made here
FLOOD = "the peer sends too many TLS records without data"
BODY = bytes(range(256)) * 4096  # 1 MiB: several batches
HEAD = b"GET / HTTP/1.1\r\nHost: reg.test\r\n\r\n"


@pytest.fixture
def peer(plane: Plane, trust: Trust, tmp_path: Path) -> Peer:
    return Peer(plane, trust, tmp_path / "keys")


class TestFloods:
    """Records without data: each costs us a key schedule or an answer, so a few are taken and no more."""

    @pytest.mark.parametrize("origin", [False, True], ids=["client", "origin"])
    def test_renegotiation(self, origin: bool, peer: Peer, run: Run) -> None:
        """OpenSSL answers each request by an alert; a peer that does not read had us keep all of these."""

        async def test() -> None:
            await peer.begin(old=True, origin=origin)
            listen(peer)
            message = HELLO_REQUEST if origin else CLIENT_HELLO
            await peer.send(b"".join(peer.keys.seal(HANDSHAKE, message) for _ in range(10_000)))
            assert await peer.told.next() == ("closed", FLOOD)

        run(test())

    @pytest.mark.parametrize("wanted", [True, False], ids=["answered", "unanswered"])
    @pytest.mark.parametrize("origin", [False, True], ids=["client", "origin"])
    def test_key_updates(self, origin: bool, wanted: bool, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin(origin=origin)
            listen(peer)
            await peer.send(peer.updates(5_000, wanted=wanted))
            assert await peer.told.next() == ("closed", FLOOD)

        run(test())

    @pytest.mark.parametrize("old", [True, False], ids=["renegotiation", "KeyUpdate"])
    def test_on_a_socket_of_openssl(self, old: bool, peer: Peer, run: Run) -> None:
        """As with kTLS, where OpenSSL reads the socket by itself."""

        async def test() -> None:
            await peer.begin(old=old, context=peer.serving(ktls=True))
            assert peer.stream.tls is not None and peer.stream.tls.direct
            listen(peer)
            if old:
                flood = b"".join(peer.keys.seal(HANDSHAKE, CLIENT_HELLO) for _ in range(10_000))
            else:
                flood = peer.updates(5_000, wanted=True)
            await peer.send(flood)
            assert await peer.told.next() == ("closed", FLOOD)

        run(test())

    def test_session_tickets(self, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin(origin=True)
            listen(peer)
            await peer.send(b"".join(peer.keys.seal(HANDSHAKE, TICKET) for _ in range(CONTROLS)))
            await peer.send(peer.keys.seal(DATA, HEAD))
            assert await peer.told.next() == ("head", HEAD)
            listen(peer)
            await peer.send(peer.keys.seal(HANDSHAKE, TICKET))
            assert await peer.told.next() == ("closed", FLOOD)

        run(test())

    def test_a_few_are_answered(self, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin()
            listen(peer)
            await peer.send(peer.updates(CONTROLS, wanted=True) + peer.keys.seal(DATA, HEAD))
            assert await peer.told.next() == ("head", HEAD)
            peer.stream.send(b"x" * 100)
            assert await peer.read(100) == b"x" * 100

        run(test())

    @pytest.mark.parametrize("more", [1, 2])
    def test_data_makes_up_for_them(self, more: int, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin()
            peer.stream.receive(BytesSink(4 * MIB), "length", MIB + 1, LIMIT)
            await peer.send(peer.updates(CONTROLS, wanted=False))
            for start in range(0, MIB, 16_384):
                await peer.send(peer.keys.seal(DATA, BODY[start : start + 16_384]))
            await peer.send(peer.updates(more, wanted=False) + peer.keys.seal(DATA, b"."))
            wanted = ("body", True, "") if more == 1 else ("closed", FLOOD)
            assert await peer.told.next() == wanted

        run(test())

    @pytest.mark.parametrize("pieces, taken", [(100, True), (400, False)])
    def test_a_hello_in_pieces(self, pieces: int, taken: bool, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin(pieces=pieces)
            if not taken:
                assert await peer.told.next() == ("closed", f"TLS handshake failed: {FLOOD}")

        run(test())


def listen(peer: Peer) -> None:
    peer.stream.next_head(LIMIT, LIMIT)


class TestWaiting:
    """What a peer that does not read may have waiting for it."""

    def test_too_much(self, plane: Plane, run: Run) -> None:
        async def test() -> None:
            stream, told, _far = plane.stream(buffer=65_536)
            sent = 0
            while sent < 64 * MIB and not stream.send(b"x" * 200_000) and stream.waiting:
                sent += 200_000
                assert stream.waiting < 3 * MIB
            assert await told.next() == ("closed", "the peer does not read: too many bytes wait for it")
            assert sent > MIB

        run(test())

    def test_one_large_answer(self, plane: Plane, run: Run) -> None:
        async def test() -> None:
            stream, told, far = plane.stream(buffer=65_536)
            assert not stream.send(b"head", b"x" * 16 * MIB)
            assert await plane.read(far, 16 * MIB + 4) == b"head" + b"x" * 16 * MIB
            assert await told.next() == ("sent",)

        run(test())


class TestSeal:
    """Whose records are made by _seal, from when on, and what ends that."""

    async def large(self, peer: Peer, end: tuple[str, ...] = ("sent",)) -> bytes:
        """Send BODY from a file, in several batches; what the peer has of it. `end`: what is told then."""
        assert not peer.stream.send(b"", b"", FileSource(peer.file(BODY), 0, len(BODY)))
        got = await peer.read(len(BODY))
        assert await peer.told.next() == end
        return got

    def test_a_large_body(self, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin()
            tls = peer.stream.tls
            assert tls is not None and (tls.sealed, tls.keeps_secret) == (False, True)
            assert await self.large(peer) == BODY
            assert (tls.sealed, tls.keeps_secret) == (True, False)
            peer.stream.close()
            assert await peer.read(1) == b""  # a closure alert

        run(test())

    def test_many_small_answers(self, peer: Peer, run: Run) -> None:
        """They are worth it, too: nothing is lost where the one record layer follows the other."""

        async def test() -> None:
            await peer.begin()
            tls = peer.stream.tls
            assert tls is not None
            for number in range(2 * SEAL_AFTER):
                assert tls.sealed == (number > SEAL_AFTER)
                expected = b"head %d " % number + b"x" * number
                assert peer.stream.send(expected)
                assert await peer.read(len(expected)) == expected
            assert not tls.keeps_secret
            peer.stream.close()
            assert await peer.read(1) == b""

        run(test())

    @pytest.mark.parametrize("old, seals", [(True, True), (False, False)], ids=["TLS 1.2", "openssl"])
    def test_no_secret_is_kept_in_vain(self, old: bool, seals: bool, peer: Peer, run: Run) -> None:
        async def test() -> None:
            await peer.begin(old=old, context=peer.serving(seals=seals))
            tls = peer.stream.tls
            assert tls is not None and (tls.sealed, tls.keeps_secret) == (False, False)
            peer.stream.send(b"", b"", FileSource(peer.file(BODY), 0, len(BODY)))
            await peer.plane.read(peer.far, len(BODY))
            assert not tls.sealed

        run(test())

    @pytest.mark.parametrize("asks", [(True, False), (True, True), (True,)], ids=["pair", "two", "one"])
    def test_keys_that_openssl_has_changed(self, asks: tuple[bool, ...], peer: Peer, run: Run) -> None:
        """The second KeyUpdate has OpenSSL answer the first while it reads; one alone waits for a write."""

        async def test() -> None:
            await peer.begin()
            listen(peer)
            await peer.send(b"".join(peer.updates(1, wanted=wanted) for wanted in asks))
            await peer.send(peer.keys.seal(DATA, HEAD))
            assert await peer.told.next() == ("head", HEAD)
            tls = peer.stream.tls
            assert tls is not None and not tls.keeps_secret
            assert await self.large(peer) == BODY
            assert not tls.sealed

        run(test())

    @pytest.mark.parametrize("wanted", [True, False])
    def test_a_key_update_behind_it(self, wanted: bool, peer: Peer, run: Run) -> None:
        """Of the client's own keys: taken. One of ours can't be made any more: the connection ends."""

        async def test() -> None:
            await peer.begin()
            assert await self.large(peer) == BODY
            listen(peer)
            await peer.send(peer.updates(2, wanted=wanted) + peer.keys.seal(DATA, HEAD))
            if wanted:
                reason = "the peer asks for a KeyUpdate behind a large body or many answers"
                assert await peer.told.next() == ("closed", reason)
                assert await peer.read(1) == b""
            else:
                assert await peer.told.next() == ("head", HEAD)
                assert await self.large(peer) == BODY

        run(test())

    def test_the_last_record(self, peer: Peer, run: Run) -> None:
        """One key is good for so many: an answer ahead of that should be the last, and none goes on."""

        async def test() -> None:
            context = peer.serving()
            context.records_max = 300
            await peer.begin(context=context)
            assert not peer.stream.spent
            assert [await self.large(peer) for _ in range(3)] == [BODY, BODY, BODY]
            assert peer.stream.spent and peer.stream.open
            assert await self.large(peer) == BODY
            end = "the limit of TLS records for one key is reached"
            got = await self.large(peer, ("closed", end))
            assert BODY.startswith(got) and len(got) < len(BODY)

        run(test())


def test_left_over_errors(peer: Peer, plane: Plane, run: Run) -> None:
    """OpenSSL's queue of errors belongs to the thread: one connection's must not spoil another's."""

    async def test() -> None:
        await peer.begin()
        listen(peer)
        broken, _, _ = plane.stream()
        with pytest.raises(ValueError, match="can't be checked as a name"):
            broken.start_tls(client_context(False), b"x" * 300, False, LIMIT)
        record = peer.keys.seal(DATA, HEAD)
        await peer.send(record[:20])
        await plane.turns()
        await peer.send(record[20:])
        assert await peer.told.next() == ("head", HEAD)

    run(test())
