"""What a child of the supervisor is told, and the channel between the two."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
from contextlib import ExitStack

import pytest

from regproxy.debug.views import HubView
from regproxy.process import boot
from regproxy.process.boot import ControlChannel, Record

TERM, HUP, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGKILL


class TestBootRecord:
    """What a child is told."""

    RECORD = Record("worker", 3, "/m", 2, "secret 1", True, control=5, board=-1, commits=6, audit=(7, 8))

    def test_no_secret_shows(self) -> None:
        record = dataclasses.replace(self.RECORD, hub=HubView(1, "secret 2", "/ca"))
        assert "secret" not in repr(record)

    def test_descriptors(self) -> None:
        assert self.RECORD.descriptors == (5, 6, 7, 8)


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
