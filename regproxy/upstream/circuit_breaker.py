"""Circuit breakers: an origin that can't be reached is not asked by everybody, but by one, now and then.

    closed       all ask; FAILURES in a row, without an answer between, open it
    open         nobody asks until its time is over: 1 s, doubled with each attempt that fails, up to 30 s
    half open    one asks; an answer closes it, a failure opens it for longer

An answer is any head: an origin that says 500 is there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from regproxy.core.errors import Busy, CircuitOpen, RateLimited, UpstreamError, UpstreamTimeout
from regproxy.http.origin import Origin

log = logging.getLogger(__name__)

FAILURES: Final = 3
OPEN_MIN: Final = 1.0  # seconds
OPEN_MAX: Final = 30.0
JITTER: Final = 0.25  # of those are taken off at random, so that workers do not ask in step
PROBE_SECONDS: Final = 30.0  # who was let through and says nothing for so long has given up: another one may
ORIGINS_MAX: Final = 1000  # failing ones that are remembered; clients may make names up

T = TypeVar("T")


class Counters(Protocol):
    """Where circuits are shown."""

    def circuit(self, registry: str, is_open: bool) -> None:
        """Show whether a registry is being left alone."""

    def circuit_refused(self, registry: str) -> None:
        """Count a request that was not sent for it."""


@dataclass(slots=True)
class _Circuit:
    """An origin that has failed. `until` is 0 while it is closed; `probe`: when one was let through."""

    failures: int = 0
    seconds: float = 0.0
    until: float = 0.0
    probe: float = -math.inf
    cause: str = ""


@dataclass(slots=True)
class _Dials:
    """Those who wait for a connection to an origin. `alive`: when it has shown that it is there."""

    waiting: dict[asyncio.Timeout, UpstreamError | None] = field(default_factory=dict)
    alive: float = -math.inf


class Breakers:
    """The circuits of all origins, one object for each worker; use from one thread.

    admit(), then the request, then one of answered(), failed(), abandoned(). `clock`: monotonic seconds.
    """

    def __init__(
        self,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._rng = rng or random.Random()
        self._circuits: dict[Origin, _Circuit] = {}
        self._dials: dict[Origin, _Dials] = {}

    def admit(self, origin: Origin) -> None:
        """Raise CircuitOpen where the origin is to be left alone; else the request is on its way."""
        circuit = self._circuits.get(origin)
        if circuit is None or not circuit.until:
            return
        now = self._clock()
        wait = circuit.until - now
        if wait <= 0 and now - circuit.probe >= PROBE_SECONDS:
            circuit.probe = now
            return
        self._counters.circuit_refused(origin.host)
        when = f"in {math.ceil(wait)} s" if wait > 0 else "just now"
        raise CircuitOpen(
            f"{origin.host} is not asked: it has failed {circuit.failures} times in a row, at last with"
            f' "{circuit.cause}"; the next attempt is made {when}',
            max(math.ceil(wait), 1),
        )

    def failed(self, origin: Origin, error: UpstreamError) -> None:
        """A request got no head: no connection, no TLS, no answer in time. `error` says why."""
        if isinstance(error, RateLimited | CircuitOpen | Busy):
            return  # nobody was asked
        circuit = self._circuits.get(origin) or self._new(origin)
        now = self._clock()
        circuit.cause = str(error)
        if circuit.until > now:
            return  # sent before it was opened
        circuit.failures += 1
        if circuit.failures < FAILURES:
            return
        circuit.seconds = min(circuit.seconds * 2 or OPEN_MIN, OPEN_MAX)
        seconds = circuit.seconds * (1.0 - JITTER * self._rng.random())
        first, circuit.until, circuit.probe = not circuit.until, now + seconds, -math.inf
        log.log(
            logging.WARNING if first else logging.DEBUG,
            *("%s failed %d times in a row: %s; asked again in %.1f s", origin.host, circuit.failures),
            *(error, seconds),
        )
        self._counters.circuit(origin.host, True)
        self._fail_waiting(origin, error)

    def answered(self, origin: Origin) -> None:
        """A head came, whatever it says."""
        dials = self._dials.get(origin)
        if dials is not None:
            dials.alive = self._clock()
        circuit = self._circuits.pop(origin, None)
        if circuit is not None and circuit.until:
            log.warning("%s answers again", origin.host)
            self._show(origin)

    def abandoned(self, origin: Origin) -> None:
        """A request ended before either was known, as by its client's leaving: another one may ask."""
        circuit = self._circuits.get(origin)
        if circuit is not None:
            circuit.probe = -math.inf

    def _new(self, origin: Origin) -> _Circuit:
        if len(self._circuits) >= ORIGINS_MAX:
            oldest = next(iter(self._circuits))
            del self._circuits[oldest]
            self._show(oldest)
        circuit = self._circuits[origin] = _Circuit()
        return circuit

    def _show(self, origin: Origin) -> None:
        """One port of a host may be shut while another one is not."""
        others = (circuit.until for each, circuit in self._circuits.items() if each.host == origin.host)
        self._counters.circuit(origin.host, any(others))

    # --- those who wait for a connection -----------------------------------------------------------------

    async def run(self, origin: Origin, dial: Coroutine[Any, Any, T]) -> T:
        """Await `dial`, but no longer than until it is known to be in vain.

        A dead host costs the first one who dials it all of the connect timeout, and the others no more than
        what is left of his: when he gets UpstreamTimeout, and the origin has not shown in all that time that
        it is there, they get it too. They all get what opens the circuit.
        """
        dials = self._dials.setdefault(origin, _Dials())
        began = self._clock()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                dials.waiting[scope] = None
                result = await dial
            dials.alive = self._clock()
            return result
        except UpstreamTimeout as error:
            if dials.alive < began:
                self._fail_waiting(origin, error, besides=scope)
            raise
        except TimeoutError:
            error_of_another = dials.waiting.get(scope)
            if error_of_another is None:
                raise
            raise type(error_of_another)(str(error_of_another)) from None
        finally:
            dials.waiting.pop(scope, None)
            if not dials.waiting:
                self._dials.pop(origin, None)

    def _fail_waiting(
        self, origin: Origin, error: UpstreamError, besides: asyncio.Timeout | None = None
    ) -> None:
        dials = self._dials.get(origin)
        if dials is None:
            return
        for scope, known in list(dials.waiting.items()):
            if scope is not besides and known is None:
                dials.waiting[scope] = error
                scope.reschedule(0.0)
