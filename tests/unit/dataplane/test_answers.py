"""Which answers are kept, and for how long."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from regproxy.dataplane import answers as module
from regproxy.dataplane.answers import Answer, Answers
from regproxy.dataplane.board import SIZE, Board
from regproxy.dataplane.tally import Tally


@pytest.fixture
def answers() -> Iterator[Answers]:
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    yield Answers(Board(fd), 1.0, 1.0)
    os.close(fd)


def answer(body: bytes = b"") -> Answer:
    return Answer(b"HTTP/1.1 200 OK\r\n\r\n", body, None, Tally(), True, 1e12, 0, None)


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
