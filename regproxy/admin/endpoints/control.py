"""What an operator may have the proxy do: read its configuration again, go offline, change its CA."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from regproxy.admin.endpoints.status import Offline, offline_of
from regproxy.admin.operations import Call, post
from regproxy.admin.replies import Problem
from regproxy.cache import layout
from regproxy.config.directories import Directories
from regproxy.core.errors import CertificateError
from regproxy.core.state_file import locked
from regproxy.server.context import Services
from regproxy.tls import ca_rotation
from regproxy.tls.ca_files import CaPair, files_of
from regproxy.tls.ca_scope import wanted
from regproxy.tls.x509 import fingerprint

_NOT_ALLOWED = {409: "the configuration, or the state that it is in, does not allow it"}
_NOT_DONE = _NOT_ALLOWED | {503: "the supervisor does not answer"}


_DropNames = Annotated[bool, Meta(description="even if the new CA lacks names that the CA in use signs")]


class Supervisor(Protocol):
    """Whom a reload is asked of."""

    async def ask(self) -> tuple[str, str]:
        """Have the configuration read again; return "done", "refused", "failed" or "unknown", and why."""


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a reload."""

    result: Literal["done", "refused", "failed", "unknown"]
    reason: Annotated[str | None, Meta(description="why it failed; the previous configuration stays in use")]


class OfflineSwitch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether no registry is to be asked."""

    on: bool


class RotateForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a CA is to be made."""

    again: Annotated[bool, Meta(description="make another one although one waits already")] = False
    drop_names: _DropNames = False


class FinishForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rotation is to be finished."""

    drop_names: _DropNames = False


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """A CA certificate."""

    subject: str
    sha256: str
    not_after: Annotated[float, Meta(description="seconds since the epoch")]
    waits: Annotated[bool, Meta(description="it signs what the former may not, until it is the first")]


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """The CAs now, the one that signs first, and what became of the reload."""

    authorities: list[Authority]
    reload: Reloaded


class Control:
    """The endpoints of what an operator may do."""

    def __init__(
        self, services: Services, directories: Directories, supervisor: Supervisor, threads: Executor
    ) -> None:
        self._threads = threads
        self._services = services
        self._directories = directories
        self._supervisor = supervisor
        self._files = files_of(services.config, directories.ca_crt, directories.ca_key)

    @post("/api/v1/reload", problems=_NOT_DONE)
    async def reload(self, call: Call[None, None]) -> Reloaded:
        """Read the configuration again, as SIGHUP does, and return when all workers have it.

        409: it can't be used, or no worker came up with it, and the former goes on. A worker retires then,
        maybe the one that answers, whose connections end.
        """
        return await self._reload()

    async def _reload(self) -> Reloaded:
        result, reason = await self._supervisor.ask()
        if result == "done":
            return Reloaded(result="done", reason=None)
        status = 503 if result == "unknown" else 409
        raise Problem(status, f"{result}: {'; '.join(reason.splitlines())}")

    @post("/api/v1/offline", problems={409: "REGPROXY_OFFLINE is true", 503: "the disk does not take it"})
    async def switch_offline(self, call: Call[None, OfflineSwitch]) -> Offline:
        """Switch offline mode on or off, for all workers at once and across restarts.

        While it is on, no registry is asked. The setting REGPROXY_OFFLINE=true wins.
        """
        services, on = self._services, call.body.on
        if services.config.offline and not on:
            apply = "reload if it is in the TOML file, restart if it is in the environment"
            wins = f"REGPROXY_OFFLINE is true, and that wins: change the setting, then {apply}"
            raise Problem(409, wins, field="on")
        path = layout.offline(self._directories.cache)

        def switch() -> None:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            # Else two opposite requests could leave the file of one and the state of the other.
            with locked(path.with_name(f"{path.name}.lock")):
                _keep(path, on)
                services.board.set_offline(on)

        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, switch)
        except OSError as error:
            raise Problem(503, f"{path}: {error.strerror}; nothing is changed") from None
        return offline_of(services)

    @post("/api/v1/ca/rotate", problems=_NOT_ALLOWED)
    async def rotate_ca(self, call: Call[None, RotateForm]) -> Rotated:
        """Make a new CA, which waits until clients trust it, as `regproxy ca rotate` does.

        409: one waits already, the CA is somebody else's to renew, or the new one would lack names.
        `reload` says whether the workers have it.
        """
        scope, form = wanted(self._services.config), call.body
        return await self._changed(
            lambda: ca_rotation.rotate(
                *(self._files, scope, time.time()), again=form.again, drop_names=form.drop_names
            )
        )

    @post("/api/v1/ca/rotate/finish", problems=_NOT_ALLOWED)
    async def finish_ca_rotation(self, call: Call[None, FinishForm]) -> Rotated:
        """Have the CA that waits sign everything from now on, as `regproxy ca rotate --finish` does.

        409: none waits, or it lacks names that the CA in use signs. `reload` says whether the workers have
        it.
        """
        scope, drop = wanted(self._services.config), call.body.drop_names
        return await self._changed(
            lambda: ca_rotation.finish(self._files, scope, time.time(), drop_names=drop)
        )

    async def _changed(self, change: Callable[[], tuple[CaPair, ...]]) -> Rotated:
        """Change the CA's files in a thread, and have everybody read them."""
        try:
            pairs = await asyncio.get_running_loop().run_in_executor(self._threads, change)
        except CertificateError as error:
            raise Problem(409, str(error)) from None
        result, reason = await self._supervisor.ask()
        reload = Reloaded(result=_result(result), reason=reason or None)
        return Rotated(authorities=_described(pairs), reload=reload)


def _result(text: str) -> Literal["done", "refused", "failed", "unknown"]:
    return text if text in ("done", "refused", "failed") else "unknown"  # type: ignore[return-value]


def _described(pairs: tuple[CaPair, ...]) -> list[Authority]:
    return [
        Authority(
            subject=pair.certificate.subject.rfc4514_string(),
            sha256=fingerprint(pair.certificate),
            not_after=pair.ends,
            waits=at > 0,
        )
        for at, pair in enumerate(pairs)
    ]


def _keep(path: Path, on: bool) -> None:
    """Note for the next start whether the proxy is switched offline. Raises OSError."""
    if not on:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    path.touch(mode=0o640)
