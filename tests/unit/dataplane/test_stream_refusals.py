"""What the kernel may refuse, and seldom does: reads that must not block, and room for one more socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import syscall_faults

pytestmark = pytest.mark.skipif(syscall_faults.MISSING is not None, reason=str(syscall_faults.MISSING))

PLANE = """
import os, socket
from pathlib import Path
from regproxy.dataplane import stream as stream_module
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.listener import Listener
from tests.support.plane import DATA, Plane

plane = Plane()
run = plane.loop.run_until_complete
place = Path(os.environ["PLACE"])
"""

READS = """
async def test():
    path = place / "blob"
    path.write_bytes(DATA)
    for start, growing in ((0, False), (100_000, False), (0, True)):
        growth = None
        file = plane.file(path)
        if growing:
            growth = GrowingFile(file)
            growth.follow(len(DATA))
            growth.finish()
        stream, told, far = plane.stream()
        before = plane.jobs
        stream.send(b"", b"", FileSource(file, start, len(DATA), growth))
        assert await plane.read(far, len(DATA) - start) == DATA[start:]
        assert 0 < plane.jobs - before < 10, plane.jobs
        stream.abort()
    print("read")
run(test())
"""

WATCHES = """
async def test():
    full = Path(os.environ["KERNEL_FULL"])
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    taken = []
    listener = Listener(plane.reactor, os.dup(server.fileno()), taken.append)
    fds = len(os.listdir("/proc/self/fd"))
    full.touch()
    with socket.create_connection(server.getsockname()[:2]) as far:
        # Not by the loop, whose epoll is refused too.
        assert await plane.loop.run_in_executor(None, far.recv, 1) == b""
        assert not taken and stream_module.live() == plane.reactor.streams_open == 0
    assert len(os.listdir("/proc/self/fd")) == fds
    assert "epoll_ctl" in str(plane.errors[0]["exception"])
    full.unlink()
    with socket.create_connection(server.getsockname()[:2]) as far:
        await plane.turns()
        assert len(taken) == stream_module.live() == 1
        taken.pop().abort()
    listener.close()
    print("watched")
run(test())
"""


def test_reads_that_would_always_block(tmp_path: Path) -> None:
    """A thread has read the pages, and the kernel still says so: they are read nevertheless, once."""
    assert syscall_faults.run_with(tmp_path, "nowait", PLANE + READS, PLACE=str(tmp_path)) == "read\n"


def test_a_client_that_can_not_be_watched(tmp_path: Path) -> None:
    """Its descriptor is closed, and the listener goes on."""
    full = str(tmp_path / "full")
    said = syscall_faults.run_with(tmp_path, "watch", PLANE + WATCHES, PLACE=str(tmp_path), KERNEL_FULL=full)
    assert said == "watched\n"
