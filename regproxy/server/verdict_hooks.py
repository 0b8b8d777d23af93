"""Ask somebody else for a verdict on an image, by its digest: a service by HTTP, or a file.

The service gets a POST with a JSON object (registry, repository, digest) and answers 200 with another one:
{"verdict": "allow", "deny" or "pending", "reason": "..."}. The file has lines of a digest (or * for all
others) and a verdict, and perhaps a reason; it is read again when it has changed.

The address is the operator's own: the rules on where clients may lead this proxy don't apply to it, and
nothing of a client's is sent there but what it has asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from regproxy.config.faults import try_all
from regproxy.config.image_rules import Rule
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError, RegproxyError
from regproxy.core.lru import Bounded, Seldom
from regproxy.core.named_file import open_file
from regproxy.core.single_flight import Flights
from regproxy.http.messages import parse_response
from regproxy.policy.image_rules import Outcome
from regproxy.registry.strict_json import read_strictly
from regproxy.registry.targets import is_digest

log = logging.getLogger(__name__)

VERDICTS_MAX: Final = 8192  # that a worker remembers for each hook
ASKED_MAX: Final = 32  # questions at a time, for each hook and worker
SOON_SECONDS: Final = 5.0  # for which "pending" and failures are remembered
ANSWER_MAX: Final = 65_536  # bytes of an answer's body
FILE_MAX: Final = 16 * 1024 * 1024  # bytes
_HEAD_MAX: Final = 16_384
_REASON_MAX: Final = 200  # characters
_WORDS: Final = frozenset({"allow", "deny", "pending"})
_OTHERS: Final = "*"
_NEWLINE: Final = b"\r\n"

_Key = tuple[str, int, str, str]  # registry's host and port, repository, digest


class HookError(RegproxyError):
    """A verdict can't be had: says why."""


class VerdictHook:
    """The hook of one rule. `clock`: monotonic."""

    def __init__(self, rule: Rule, clock: Callable[[], float] = time.monotonic) -> None:
        self._rule = rule
        self._clock = clock
        self._known: Bounded[_Key, tuple[Outcome, float]] = Bounded(VERDICTS_MAX)
        self._flights: Flights[_Key, Outcome] = Flights()
        self._seldom = Seldom()
        self._slots = asyncio.Semaphore(ASKED_MAX)
        self._file = _VerdictFile(Path(rule.verdict)) if _is_file(rule.verdict) else None
        is_tls = rule.verdict.lower().startswith("https:")
        self._tls = ssl.create_default_context() if is_tls else None

    async def ask(self, host: str, port: int, repository: str, digest: str) -> Outcome:
        """Return whether an image is allowed, asking once for all who want to know at the same time."""
        key = (host, port, repository, digest)
        known = self._known.get(key)
        if known is not None and self._clock() < known[1]:
            return known[0]
        return await self._flights.join(key, lambda: self._ask(key))

    async def _ask(self, key: _Key) -> Outcome:
        rule = self._rule
        lasts = rule.verdict_ttl
        try:
            # Clients may ask for as many digests as they like: the service is spared.
            async with asyncio.timeout(rule.verdict_timeout), self._slots:
                outcome = await (self._ask_file(key[3]) if self._file is not None else self._ask_service(key))
        except (OSError, TimeoutError, HookError, RegproxyError, EOFError, ValueError) as error:
            if self._seldom.lets("", self._clock()):
                log.warning("rule %s: no verdict (on_error = %r): %s", rule.name, rule.on_error, _why(error))
            reason = "no verdict on it can be had"
            outcome, lasts = Outcome(rule.on_error == "allow", reason, pending=True), SOON_SECONDS
        if outcome.pending:
            lasts = min(lasts, SOON_SECONDS)
        self._known.put(key, (outcome, self._clock() + lasts))
        return outcome

    async def _ask_file(self, digest: str) -> Outcome:
        assert self._file is not None
        loop = asyncio.get_running_loop()
        verdicts = await loop.run_in_executor(None, self._file.read)
        word, reason = verdicts.get(digest) or verdicts.get(_OTHERS) or ("pending", "the file does not say")
        return replace(_outcome(word, reason), named=digest in verdicts)

    # --- by HTTP -----------------------------------------------------------------------------------------

    async def _ask_service(self, key: _Key) -> Outcome:
        host, port, repository, digest = key
        registry = host if port == 443 else f"{host}:{port}"
        body = json.dumps({"registry": registry, "repository": repository, "digest": digest}).encode()
        answer = read_strictly(await self._post(body), ANSWER_MAX)
        if not isinstance(answer, dict) or answer.get("verdict") not in _WORDS:
            raise HookError('an answer without a "verdict" of allow, deny or pending')
        return _outcome(answer["verdict"], answer.get("reason"))

    async def _post(self, body: bytes) -> bytes:
        """Return the body of the answer. Raises HookError, OSError, EOFError (IncompleteReadError)."""
        parts = urlsplit(self._rule.verdict)
        port = parts.port or (80 if self._tls is None else 443)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._tls, limit=_HEAD_MAX)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"Accept: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode("ascii") + body)
            await writer.drain()
            return await _read_answer(reader)
        finally:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    try:
        response = parse_response(await reader.readuntil(_NEWLINE * 2), "POST")
    except asyncio.LimitOverrunError:
        raise HookError("an answer whose head is too large") from None
    if response.status != 200:
        raise HookError(f"it answers {response.status}")
    framing = response.body
    if framing.kind == "chunked":
        return await _read_chunks(reader)
    if framing.kind == "length":
        if framing.length > ANSWER_MAX:
            raise HookError("an answer that is too large")
        return await reader.readexactly(framing.length)
    return await _read_to_end(reader)


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while piece := await reader.read(ANSWER_MAX):
        found += piece
        if len(found) > ANSWER_MAX:
            raise HookError("an answer that is too large")
    return found


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while True:
        line = await reader.readuntil(_NEWLINE)
        size = int(line.partition(b";")[0].strip(), 16)
        if size < 0 or len(found) + size > ANSWER_MAX:
            raise HookError("an answer that is too large")
        if size == 0:
            return found
        found += await reader.readexactly(size)
        if await reader.readexactly(2) != _NEWLINE:
            raise HookError("an answer whose chunks can't be read")


# --- the file --------------------------------------------------------------------------------------------


class _VerdictFile:
    """A file of verdicts. read() may be called from any thread, one at a time or several."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._verdicts: dict[str, tuple[str, str]] = {}

    def read(self) -> dict[str, tuple[str, str]]:
        """Return (verdict, reason) by digest. Raises OSError, HookError: which line is wrong."""
        with open_file(self._path) as file:
            status = os.fstat(file.fileno())
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen == self._seen:
                return self._verdicts
            text = file.read(FILE_MAX + 1)
        if len(text) > FILE_MAX:
            raise HookError(f"{self._path}: more than {FILE_MAX} bytes")
        verdicts = parse_verdicts(text.decode("utf-8", "replace"), str(self._path))
        self._verdicts, self._seen = verdicts, seen
        return verdicts


def check_verdict_files(config: Config) -> None:
    """Raise ConfigError where a file of verdicts that a rule names can't be used at the start."""
    first = {rule.verdict: rule.name for rule in reversed(config.image_rules.rules) if _is_file(rule.verdict)}
    try_all(partial(_check_file, path, name) for path, name in first.items())


def _check_file(path: str, rule: str) -> None:
    setting = f"rule {rule!r}: verdict"
    try:
        _VerdictFile(Path(path)).read()
    except OSError as error:
        raise ConfigError(setting, path, f"a file that can be read: {error.strerror}") from None
    except HookError as error:
        raise ConfigError(setting, path, f"a file of verdicts: {error}") from None


def _is_file(verdict: str) -> bool:
    return bool(verdict) and "://" not in verdict


def parse_verdicts(text: str, name: str) -> dict[str, tuple[str, str]]:
    """Return (verdict, reason) by digest, `*` for all others. Raises HookError: which line is wrong."""
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split(None, 2)
        if not words:
            continue
        # A digest that is none would match no image: whom it was to keep out would be let in by `*`.
        if len(words) < 2 or words[1] not in _WORDS or not (words[0] == _OTHERS or is_digest(words[0])):
            raise HookError(f"{name}, line {number}: a digest or *, then allow, deny or pending")
        found[words[0]] = (words[1], words[2].strip() if len(words) > 2 else "")
    return found


def _outcome(word: str, reason: object) -> Outcome:
    told = reason if isinstance(reason, str) else ""
    told = "".join(each for each in told[:_REASON_MAX] if each.isprintable())
    said = {"allow": "the verdict is allow", "deny": "the verdict is deny", "pending": "no verdict yet"}[word]
    return Outcome(word == "allow", f"{said}: {told}" if told else said, pending=word == "pending")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
