"""A container of an image, by podman and crun, in the network of this machine.

crun refuses some kinds of cgroups, and within a container there may be none to make. So the container goes
without, and the commands see no /sys/fs/cgroup.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.image.building import storage
from tests.support.processes import wait_until

USER: Final = 3128
_NO_CGROUPS: Final = "mount -t tmpfs none /sys/fs/cgroup && exec "


def podman(*words: str) -> list[str]:
    """Return the command that runs podman on our storage."""
    options = ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    return [
        "unshare",
        "--mount",
        "sh",
        "-c",
        _NO_CGROUPS + shlex.join(["podman", *storage(), *options, *words]),
    ]


def volume(path: Path, owner: int = USER) -> Path:
    """Make a directory for a volume."""
    path.mkdir(parents=True)
    path.chmod(0o750)
    os.chown(path, owner, owner)
    return path


class Container:
    """Runs from the start on; killed at the end if it still does. `started`: time.monotonic() then.

    Its root can't be written, and it has no capability. `volumes`: paths of this machine by those in it.
    """

    def __init__(
        self,
        image: str,
        volumes: Mapping[str, Path],
        env: Mapping[str, str],
        *arguments: str,
        entry: str = "",
    ) -> None:
        self.name = f"regproxy-{os.getpid()}-{time.monotonic_ns()}"
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limits = ["--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=4096:4096"]
        words = [
            *("run", "--rm", "--name", self.name, "--cgroups=disabled", "--network=host", "--no-healthcheck"),
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"),
            *limits,
            *(word for to, path in volumes.items() for word in ("--volume", f"{path}:{to}")),
            *(word for name, value in env.items() for word in ("--env", f"{name}={value}")),
            *(["--entrypoint", entry] if entry else []),
            *(image, *arguments),
        ]
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            podman(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )

    def wait_ready(self, admin: tuple[str, int]) -> None:
        """Return once /readyz says 200."""
        wait_until(lambda: self._process.poll() is not None or ready(admin), "it is ready", timeout=90)
        assert self._process.poll() is None, self.ended()

    def execute(self, *words: str) -> tuple[int, str]:
        """Run a command in it; return exit code and output."""
        done = subprocess.run(
            podman("exec", self.name, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout.strip()

    def stop(self, seconds: int = 10) -> None:
        """Do as `docker stop` does: SIGTERM, and SIGKILL after so many seconds. Does not wait for the end."""
        subprocess.Popen(podman("stop", "--time", str(seconds), self.name), stdout=subprocess.DEVNULL).wait()

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        subprocess.run(podman("kill", "--signal", name, self.name), check=True, stdout=subprocess.DEVNULL)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return exit code and everything that it has printed."""
        printed, _ = self._process.communicate(timeout=60)
        return self._process.returncode, printed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            subprocess.run(podman("rm", "--force", "--time", "0", self.name), stdout=subprocess.DEVNULL)
            code, printed = self.ended()
            if error is not None:
                print(f"exit code {code}\n{printed}")


def ready(admin: tuple[str, int]) -> bool:
    """Tell whether /readyz says 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host = f"[{admin[0]}]" if ":" in admin[0] else admin[0]
    try:
        with opener.open(f"http://{host}:{admin[1]}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
