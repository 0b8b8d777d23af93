"""Which answers are kept, for how long, and how they go out."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from regproxy.dataplane import answers as module
from regproxy.dataplane.answers import Answer, Answers
from regproxy.dataplane.board import SIZE, Board
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tally import Tally
from tests.support.plane import LIMIT, Plane, Run, Told, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures

HEAD = b"GET /v2/app/manifests/v1 HTTP/1.1\r\nHost: reg.test\r\n\r\n"
SAID = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
def board() -> Iterator[Board]:
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    yield Board(fd)
    os.close(fd)


@pytest.fixture
def answers(board: Board) -> Answers:
    return Answers(board, LIMIT, LIMIT)


def answer(
    body: bytes = b"",
    tally: Tally | None = None,
    until: float = 1e12,
    line: tuple[bytes, ...] | None = None,
    second: int = 0,
) -> Answer:
    return Answer(SAID, body, "owner", Tally() if tally is None else tally, True, until, second, line)


def test_equal_keys_share(answers: Answers) -> None:
    one = answers.scope(("reg.test", 443, ""))
    assert answers.scope(("reg.test", 443, "")) is one
    assert answers.scope(("reg.test", 444, "")) is not one


def test_their_number_is_bounded(answers: Answers) -> None:
    scopes = [answers.scope(number) for number in range(8)]
    for number in range(3 * module.ANSWERS_MAX):
        scopes[number % 8].put(b"%d" % number, answer())
        assert answers.kept <= module.ANSWERS_MAX
    assert answers.kept == module.ANSWERS_MAX


def test_their_bytes_are_bounded(answers: Answers) -> None:
    scope, most = answers.scope(1), module.HELD_MAX // module.BODY_MAX
    for number in range(2 * most + 1):
        scope.put(b"%d" % number, answer(bytes(module.BODY_MAX)))
        assert answers.kept <= most


def test_a_large_body_is_left_out(answers: Answers) -> None:
    answers.scope(1).put(b"head", answer(bytes(module.BODY_MAX + 1)))
    assert answers.kept == 0


def test_clearing_reaches_scopes_that_are_in_use(answers: Answers) -> None:
    scope = answers.scope(1)
    for _ in range(2):
        scope.put(b"head", answer())
        assert answers.kept == 1
        answers.clear()
        assert answers.kept == 0


def test_closed_it_keeps_nothing(answers: Answers) -> None:
    scope = answers.scope(1)
    scope.put(b"head", answer())
    answers.close()
    scope.put(b"head", answer())
    assert answers.kept == 0


Front = tuple[Stream, Told, socket.socket]
REVOKED: dict[str, Callable[[Answers, Board], object]] = {
    "here": lambda answers, board: answers.revoke(),
    "by another process": lambda answers, board: board.bump(),
    "by a purge": lambda answers, board: board.purge(),
}


@pytest.fixture
def front(plane: Plane, answers: Answers) -> Front:
    """A connection that waits for a head, and gets the answers of scope 1."""
    return begin(answers, plane.stream())


def begin(answers: Answers, front: Front) -> Front:
    stream = front[0]
    stream.scope = answers.scope(1)
    stream.next_head(LIMIT, LIMIT)
    return front


class TestGood:
    """An answer is sent again while nothing has changed since its look-up began, and to its scope."""

    @pytest.mark.parametrize("when", ["before", "meanwhile", "later"])
    @pytest.mark.parametrize("how", sorted(REVOKED))
    def test_revoked(
        self, how: str, when: str, answers: Answers, board: Board, front: Front, plane: Plane, run: Run
    ) -> None:
        """What changes within a look-up may have come too late for it."""
        _, told, far = front

        async def test() -> None:
            if when == "before":
                REVOKED[how](answers, board)
            answers.begin()
            if when == "meanwhile":
                REVOKED[how](answers, board)
            answers.scope(1).put(HEAD, answer())
            if when == "later":
                REVOKED[how](answers, board)
            far.send(HEAD)
            if when == "before":
                assert await plane.read(far, len(SAID)) == SAID
                assert told.quiet
            else:
                assert await told.next() == ("head", HEAD)

        run(test())

    @pytest.mark.parametrize(
        ("scope", "until", "second"),
        [(1, 0.0, 0), (2, 1e12, 0), (1, 1e12, 1), (1, 1e12, 1 << 40)],
        ids=["over", "another's", "of an earlier second", "of a later one"],
    )
    def test_others(
        self, scope: int, until: float, second: int, answers: Answers, front: Front, run: Run
    ) -> None:
        _, told, far = front

        async def test() -> None:
            answers.begin()
            answers.scope(scope).put(HEAD, answer(until=until, second=second))
            far.send(HEAD)
            assert await told.next() == ("head", HEAD)

        run(test())


class TestSent:
    """What goes over the wire, what is counted, and what the handler is told."""

    @pytest.mark.parametrize("piece", [1, 7, 64 * len(HEAD), 100_000])
    def test_many_heads(self, piece: int, answers: Answers, front: Front, plane: Plane, run: Run) -> None:
        """In pieces of whatever size; a head that has no answer here is the handler's, in its turn."""
        stream, told, far = front
        tally, other, count = Tally(), HEAD.replace(b"v1", b"v2"), 150

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(b"body", tally))
            sent = HEAD * count + other + HEAD * count
            for start in range(0, 3 * len(HEAD), piece):
                await plane.loop.sock_sendall(far, sent[start : start + piece])
                await plane.turns(1)
            await plane.loop.sock_sendall(far, sent[start + piece :])
            assert await told.next() == ("head", other)
            assert await plane.read(far, count * len(SAID + b"body")) == count * (SAID + b"body")
            assert nothing(far)
            assert answers.repeated == count
            stream.send(b"from the handler")
            stream.next_head(LIMIT, LIMIT)
            assert await plane.read(far, 16) == b"from the handler"
            assert await plane.read(far, count * len(SAID + b"body")) == count * (SAID + b"body")
            assert told.quiet
            taken = tally.take()
            assert taken is not None
            assert taken[:3] == (2 * count, 8 * count, 8 * count)

        run(test())

    @pytest.mark.parametrize("tcp", [True, False])
    def test_a_client_that_ends_behind_its_request(
        self, tcp: bool, answers: Answers, plane: Plane, run: Run
    ) -> None:
        _, told, far = begin(answers, plane.stream(tcp=tcp))

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(b"body"))
            far.send(3 * HEAD)
            far.shutdown(socket.SHUT_WR)
            assert await plane.read(far, 3 * len(SAID + b"body")) == 3 * (SAID + b"body")
            assert await told.next() == ("eof", False)

        run(test())

    @pytest.mark.parametrize("logged", [True, False])
    def test_each_has_an_id_of_its_own(
        self, logged: bool, answers: Answers, front: Front, plane: Plane, run: Run
    ) -> None:
        """In the head and in the line. An older one there, of whoever, stays as it is."""
        _, _, far = front
        first, older = answers.ids.next(), answers.ids.next()
        head = b"HTTP/1.1 200 OK\r\nx-said: %b\r\nx-request-id: %b\r\n\r\n" % (first, first)
        end = b' "%b" "%b"\n' % (first, first)
        line = (b"a", b"b", b"c", end) if logged else None

        async def test() -> None:
            answers.begin()
            one = Answer(head, b"body", None, Tally(), True, 1e12, 0, line, request_id=first)
            answers.scope(1).put(HEAD, one)
            far.send(3 * HEAD)
            count = int(older, 16)
            ids = [b"%032x" % (count + n) for n in (1, 2, 3)]
            want = b"".join(
                b"HTTP/1.1 200 OK\r\nx-said: %b\r\nx-request-id: %b\r\n\r\nbody" % (first, each)
                for each in ids
            )
            assert await plane.read(far, len(want)) == want
            lines = answers.take_lines()
            assert re.findall(rb'"(\w+)" "(\w+)"', lines) == (
                [(first, each) for each in ids] if logged else []
            )

        run(test())
        # What was handed over is nobody's to change.
        assert (head.count(first), end.count(first)) == (2, 2)

    def test_a_client_that_takes_nothing(self, answers: Answers, plane: Plane, run: Run) -> None:
        """The handler is told once, counts it, and may go on when all has been sent."""
        stream, told, far = begin(answers, plane.stream(buffer=4096))
        tally, body = Tally(), bytes(module.BODY_MAX)

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(body, tally))
            far.send(2 * HEAD)
            name, owner, began, request_id = await told.next()
            assert (name, owner, request_id) == ("answering", "owner", answers.ids.last)
            assert began <= time.monotonic()
            await plane.turns()
            assert told.quiet
            assert tally.take() is None
            assert await plane.read(far, len(SAID + body)) == SAID + body
            assert await told.next() == ("sent",)
            assert answers.repeated == 1
            stream.next_head(LIMIT, LIMIT)
            assert (await told.next())[0] == "answering"

        run(test())

    def test_a_client_that_takes_nothing_for_too_long(self, answers: Answers, plane: Plane, run: Run) -> None:
        stream, told, far = plane.stream(buffer=4096)
        stream.set_send_timeout(0.05)
        begin(answers, (stream, told, far))

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(bytes(module.BODY_MAX)))
            far.send(HEAD)
            assert (await told.next())[0] == "answering"
            assert await told.next() == ("timeout", "send")
            assert told.quiet

        run(test())

    def test_a_client_that_resets(self, answers: Answers, plane: Plane, run: Run) -> None:
        """Of an answer that has begun the end is told, once."""
        _, told, far = begin(answers, plane.stream(buffer=4096, tcp=True))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(bytes(module.BODY_MAX)))
            far.send(200 * HEAD)
            assert (await told.next())[0] == "answering"
            far.close()  # with bytes that are not read: a reset
            assert (await told.next())[0] == "closed"
            await plane.turns()
            assert told.quiet

        run(test())


class TestOneThatDoesNotGoOut:
    """The handler hears how such an answer ends, to log and count it, also where it is the last."""

    @pytest.mark.parametrize("last", [False, True], ids=["goes on", "ends"])
    def test_it_is_not_read_in_time(self, last: bool, answers: Answers, plane: Plane, run: Run) -> None:
        stream, told, far = begin(answers, plane.stream(buffer=4096))
        stream.set_send_timeout(0.05)

        async def test() -> None:
            answers.scope(1).put(
                HEAD, Answer(SAID, bytes(65_536), "owner", Tally(), True, 1e12, 0, None, last)
            )
            far.send(HEAD)
            assert (await told.next())[0] == "answering"
            assert await told.next() == ("timeout", "send")

        run(test())

    @pytest.mark.parametrize("last", [False, True], ids=["goes on", "ends"])
    def test_nobody_is_there(self, last: bool, answers: Answers, plane: Plane, run: Run) -> None:
        _, told, far = begin(answers, plane.stream())

        async def test() -> None:
            answers.scope(1).put(HEAD, Answer(SAID, bytes(100), "owner", Tally(), True, 1e12, 0, None, last))
            far.send(HEAD)
            far.close()
            assert (await told.next())[0] == "answering"
            assert (await told.next())[0] == "closed"

        run(test())


class TestLines:
    """Of the access log."""

    PARTS = (b"12:00:00.", b' "', b'" took ', b" end\n")

    def test_of_each_answer(self, answers: Answers, plane: Plane, run: Run) -> None:
        _, told, far = begin(answers, plane.stream(tcp=True))
        taken: list[bytes] = []
        answers.on_lines = lambda: taken.append(answers.take_lines())
        count = 10_000

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(line=self.PARTS))
            for _ in range(count // 50):
                await plane.loop.sock_sendall(far, 50 * HEAD)
                await plane.read(far, 50 * len(SAID))
            assert taken  # many were taken in between
            lines = (b"".join(taken) + answers.take_lines()).splitlines(keepends=True)
            assert len(lines) == count
            pattern = re.compile(rb'12:00:00\.\d{3} "" took \d\.\d{3} end\n')
            assert all(pattern.fullmatch(line) for line in lines)
            assert answers.take_lines() == b""
            assert told.quiet

        run(test())

    def test_behind_its_second(self, answers: Answers, front: Front, plane: Plane, run: Run) -> None:
        """What is logged when the next second has begun is not logged a second too early."""
        _, _, far = front

        async def test() -> None:
            answers.begin()
            answers.scope(1).put(HEAD, answer(line=self.PARTS))
            second, ms = int(time.time()), []
            while int(time.time()) <= second + 1:
                far.send(HEAD)
                assert await plane.read(far, len(SAID)) == SAID
                ms.append(int(answers.take_lines()[9:12]))
            assert ms == sorted(ms)

        run(test())
