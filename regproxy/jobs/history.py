"""The records of jobs on disk: every worker sees those of all, and a restart keeps them.

state/jobs/<id>.json      the record, replaced as a whole
state/jobs/<id>.lock      locked by the process that has the job; without a lock, an open job was cut
state/jobs/<id>.cancel    somebody wishes its end

Ids are in the order of their beginnings.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from regproxy.core import file_lock
from regproxy.core.errors import StoreError
from regproxy.core.state_file import StateFile
from regproxy.jobs.records import Job, decode, encode

KEPT: Final = 200  # records
_ID: Final = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}")
_DIED: Final = "the process that had it has died"


class History:
    """The records in one directory. Nothing here is for an event loop: it reads and writes files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, kind: str, by: str, what: dict[str, object]) -> tuple[Job, int]:
        """Return a new job, recorded, and the descriptor of its lock, to be closed at its end.

        Raises StoreError where nothing can be written.
        """
        now = time.time()
        job = Job(f"{int(now * 1000):012x}-{secrets.token_hex(4)}", kind, by, dict(what), created_at=now)
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            fd = os.open(self._path(job.id, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror}") from error
        file_lock.lock(fd)
        if not self.write(job):
            os.close(fd)
            # Nobody would find it: what is forgotten is found by its record.
            with suppress(OSError):
                self._path(job.id, "lock").unlink()
            raise StoreError(f"{self._directory} can't be written")
        self._prune()
        return job, fd

    def write(self, job: Job) -> bool:
        """Record a job's state; False: that has failed."""
        return StateFile(self._path(job.id, "json")).write(encode(job))

    def end(self, job: Job, fd: int) -> None:
        """Record a job's end, and let go of its lock."""
        self.write(job)
        os.close(fd)
        for kind in ("lock", "cancel"):
            with suppress(OSError):
                self._path(job.id, kind).unlink()

    def get(self, identity: str) -> Job | None:
        """Return a job, None where there is none."""
        if not _ID.fullmatch(identity):
            return None
        job = self._read(identity)
        if job is not None and job.is_open and not self._is_held(identity):
            # Its process may just have ended it, or it was forgotten.
            job = self._read(identity)
            if job is not None and job.is_open:
                job.move("cut", time.time())
                job.error = _DIED
                self.write(job)
        return job

    def _read(self, identity: str) -> Job | None:
        try:
            return decode(self._path(identity, "json").read_bytes())
        except OSError:
            return None

    def listing(self, before: str = "", limit: int = 100) -> list[Job]:
        """Return jobs, the newest first; `before`: only those begun before this one."""
        found = []
        for identity in self._ids():
            if before and identity >= before:
                continue
            job = self.get(identity)
            if job is not None:
                found.append(job)
            if len(found) >= limit:
                break
        return found

    def ask_cancel(self, identity: str) -> None:
        """Tell the process that has a job that somebody wishes its end. Raises StoreError."""
        try:
            self._path(identity, "cancel").touch()
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror}") from error

    def is_cancelled(self, identity: str) -> bool:
        """Return whether somebody wishes a job's end."""
        return self._path(identity, "cancel").exists()

    def _is_held(self, identity: str) -> bool:
        try:
            fd = os.open(self._path(identity, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not file_lock.lock(fd)
        finally:
            os.close(fd)

    def _ids(self) -> list[str]:
        """Return all ids, the newest first."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208
        except OSError:
            return []
        return sorted(
            (name[:-5] for name in names if name.endswith(".json") and _ID.fullmatch(name[:-5])), reverse=True
        )

    def _prune(self) -> None:
        for identity in self._ids()[KEPT:]:
            job = self.get(identity)
            if job is None or not job.is_open:
                for kind in ("json", "json.lock", "lock", "cancel"):
                    with suppress(OSError):
                        self._path(identity, kind).unlink()

    def _path(self, identity: str, kind: str) -> Path:
        return self._directory / f"{identity}.{kind}"
