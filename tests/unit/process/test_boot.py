"""What a child of the supervisor is told, and the channel between the two."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from contextlib import ExitStack

import pytest

from regproxy.process import boot
from regproxy.process.boot import ControlChannel, Record

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


class TestBootRecord:
    """What a child is told."""

    RECORD = Record("worker", 3, "a = 'ü'", "x.toml", "/c", "/a", "/b", "/m", 2, "key", True, -1, -1, -1)

    def test_comes_back_as_it_was(self) -> None:
        fd = self.RECORD.write()
        assert Record.read(fd) == self.RECORD
        with pytest.raises(OSError):
            os.fstat(fd)

    def test_no_secret_shows(self) -> None:
        record = dataclasses.replace(
            self.RECORD, toml_text="secret 1", claim_key="secret 2", hub=(1, "secret 3", "/ca")
        )
        assert "secret" not in repr(record)

    def test_descriptors_are_not_handed_down(self) -> None:
        one, two = socket.socketpair()
        with one, two:
            os.set_inheritable(one.fileno(), True)
            record = dataclasses.replace(self.RECORD, control=one.fileno())
            assert Record.read(record.write()).descriptors == (one.fileno(),)
            assert not os.get_inheritable(one.fileno())


class TestControl:
    """The child's end of the channel."""

    @pytest.fixture
    def ends(self, stack: ExitStack) -> tuple[ControlChannel, socket.socket]:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        return stack.enter_context(contextlib.closing(ControlChannel(ours.detach(), 1.0))), theirs

    def test_words(self, ends: tuple[ControlChannel, socket.socket]) -> None:
        control, theirs = ends
        assert control.receive() == []
        theirs.send(b"drain\nre")
        assert control.receive() == ["drain"]
        theirs.send(b"tire\nstop\n")
        theirs.close()
        assert control.receive() == ["retire", "stop", boot.GONE]

    def test_beats(self, ends: tuple[ControlChannel, socket.socket]) -> None:
        control, theirs = ends
        for now in (10.0, 10.5, 10.9, 11.0, 11.5, 13.0, 13.5):
            control.beat(now)
        control.say(boot.CUT, 3)
        assert theirs.recv(100) == b"beat\nbeat\nbeat\ncut 3\n"

    def test_nobody_listens(self, ends: tuple[ControlChannel, socket.socket]) -> None:
        """It does not wait, and a supervisor that has died is told by receive() alone."""
        control, theirs = ends
        for _ in range(10_000):
            control.say(boot.BEAT)
        theirs.close()
        control.say(boot.BEAT)
        assert control.receive()[-1] == boot.GONE
