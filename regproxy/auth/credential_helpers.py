"""Run credential helpers, programs that print a login (docker/docker-credential-helpers' protocol).

They inherit the environment, in which cloud helpers find their identity. What they print is never logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from regproxy.auth.docker_config import parse_helper_answer
from regproxy.config.credentials import Helper, Login
from regproxy.core.errors import CredentialError
from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights

log = logging.getLogger(__name__)

KEPT_SECONDS: Final = 300.0  # cloud logins last an hour and longer, and a refused one is asked for again
NONE_SECONDS: Final = 60.0  # for which "no login" is remembered
FAILED_SECONDS: Final = 15.0
AT_A_TIME: Final = 4
ANSWER_MAX: Final = 65_536  # bytes
_PIPE_SECONDS: Final = 1.0  # until the output of a helper that has ended is given up
KEPT: Final = 256

_NOT_FOUND: Final = b"credentials not found"
# The proxy's own: helpers need not know other registries' passwords.
_NOT_INHERITED: Final = frozenset({"AUTH_REGISTRIES"})


class _Kept(Struct, frozen=True):
    login: Login | None
    until: float


class Helpers:
    """Runs helpers and caches their answers. One per worker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: Bounded[tuple[Helper, str], _Kept] = Bounded(KEPT)
        self._failed: Bounded[tuple[Helper, str], tuple[float, CredentialError]] = Bounded(KEPT)
        self._flights: Flights[tuple[Helper, str], Login | None] = Flights()
        self._room = asyncio.Semaphore(AT_A_TIME)

    async def login(self, helper: Helper, server: str) -> Login | None:
        """Return a server's login, None if the helper has none. Raises CredentialError if it fails.

        While it fails, its previous login is returned.
        """
        key = (helper, server)
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until:
            return kept.login
        failed = self._failed.get(key)
        if failed is None or self._clock() >= failed[0]:
            try:
                return await self._flights.join(key, lambda: self._ask(key))
            except CredentialError as error:
                failed = (0.0, error)
        if kept is not None and kept.login is not None:
            return kept.login
        raise failed[1]

    def forget(self, helper: Helper, server: str) -> None:
        """Ask the helper again the next time: the login was refused."""
        self._kept.drop((helper, server))

    def close(self) -> None:
        """Cancel running helpers."""
        self._flights.close()

    async def _ask(self, key: tuple[Helper, str]) -> Login | None:
        helper, server = key
        try:
            async with self._room:
                login = await _run(helper, server)
        except CredentialError as error:
            self._failed.put(key, (self._clock() + FAILED_SECONDS, error))
            log.warning("%s", error)
            raise
        self._failed.drop(key)
        seconds = KEPT_SECONDS if login is not None else NONE_SECONDS
        self._kept.put(key, _Kept(login, self._clock() + seconds))
        return login


async def _run(helper: Helper, server: str) -> Login | None:
    """Run a helper to its end. Raises CredentialError, which says why there was no answer."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    try:
        # A session of its own, so that its child processes can be killed with it.
        process = await asyncio.create_subprocess_exec(
            *helper.command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a command"
        raise CredentialError(f"the credential helper {helper.name} can't be started: {reason}") from None
    try:
        async with asyncio.timeout(helper.timeout):
            answer = await _talk(process, server)
            status = await process.wait()
    except TimeoutError:
        raise CredentialError(
            f"the credential helper {helper.name} gave no answer within {helper.timeout:g} s"
        ) from None
    finally:
        await _end(process)
    if len(answer) > ANSWER_MAX:
        raise CredentialError(f"the credential helper {helper.name} prints more than {ANSWER_MAX} bytes")
    if status:
        if _NOT_FOUND in answer:
            return None
        raise CredentialError(
            f"the credential helper {helper.name} failed for {server} (status {status});"
            " run it by hand to see why"
        )
    try:
        return parse_helper_answer(answer)
    except ValueError as error:
        raise CredentialError(f"the credential helper {helper.name} does not print {error}") from None


async def _talk(process: Process, server: str) -> bytes:
    """Send the server's name and return the output, up to just over ANSWER_MAX bytes."""
    assert process.stdin is not None and process.stdout is not None
    # The helper may exit without reading; uvloop raises RuntimeError for that.
    with suppress(ConnectionError, RuntimeError):
        process.stdin.write(server.encode() + b"\n")
        await process.stdin.drain()
    process.stdin.close()
    answer = bytearray()
    while len(answer) <= ANSWER_MAX and (piece := await process.stdout.read(ANSWER_MAX)):
        answer += piece
    if len(answer) > ANSWER_MAX:
        _kill(process)
    return bytes(answer)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    """Kill the helper if it still runs, and wait for it."""
    if process.returncode is None:
        _kill(process)
        await asyncio.shield(process.wait())
    if process.stdout is not None:
        # Its pipe is closed with the last of what it has started.
        with suppress(TimeoutError):
            async with asyncio.timeout(_PIPE_SECONDS):
                while await process.stdout.read(ANSWER_MAX):
                    pass
