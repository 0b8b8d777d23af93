"""Circuit breakers: an origin that can't be reached gets single probes instead of all requests.

    closed       all requests pass; FAILURES in a row, without an answer between, open it
    open         no request passes until its time is over: 1 s, doubled by each failed probe, up to 30 s
    half open    one request passes; an answer closes it, a failure opens it for longer

Any head counts as an answer: an origin that sends 500 is reachable.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct, field

from regproxy.core.errors import Busy, CircuitOpen, RateLimited, UpstreamError, UpstreamTimeout, log_level
from regproxy.http.origin import Origin

log = logging.getLogger(__name__)

FAILURES: Final = 3
OPEN_MIN: Final = 1.0  # seconds
OPEN_MAX: Final = 30.0
JITTER: Final = 0.25  # the share of those taken off at random, so that workers do not ask in step
PROBE_SECONDS: Final = 30.0  # a probe without an outcome for so long counts as given up: another one may pass
ORIGINS_MAX: Final = 1000  # failing origins that are remembered; clients may make up names

T = TypeVar("T")


class CircuitCounters(Protocol):
    """The metrics of circuits."""

    def circuit(self, registry: str, is_open: bool) -> None:
        """Show whether a registry's circuit is open."""

    def circuit_refused(self, registry: str) -> None:
        """Count a request that was not sent because of an open circuit."""


class _Circuit(Struct):
    """The circuit of an origin that has failed. `until`: 0 while closed; `probe`: when a probe passed."""

    failures: int = 0
    seconds: float = 0.0
    until: float = 0.0
    probe: float = -math.inf
    cause: str = ""
    is_logged: bool = False


class _Dials(Struct):
    """The tasks that wait for a connection to an origin. `alive`: when it last proved reachable."""

    waiting: dict[asyncio.Timeout, UpstreamError | None] = field(default_factory=dict)
    alive: float = -math.inf


class Breakers:
    """The circuits of all origins, one object for each worker; use from one thread.

    admit(), then the request, then one of answered(), failed(), abandoned(). `clock`: monotonic seconds.
    """

    def __init__(
        self,
        counters: CircuitCounters,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._rng = rng or random.Random()
        self._circuits: dict[Origin, _Circuit] = {}
        self._dials: dict[Origin, _Dials] = {}

    def admit(self, origin: Origin) -> None:
        """Raise CircuitOpen where the circuit is open; otherwise the request counts as sent."""
        circuit = self._circuits.get(origin)
        if circuit is None or not circuit.until:
            return
        now = self._clock()
        wait = circuit.until - now
        if wait <= 0 and now - circuit.probe >= PROBE_SECONDS:
            circuit.probe = now
            return
        self._counters.circuit_refused(origin.name)
        when = f"in {math.ceil(wait)} s" if wait > 0 else "just now"
        error = CircuitOpen(
            f"{origin.name} is not asked: it has failed {circuit.failures} times in a row, at last with"
            f' "{circuit.cause}"; the next attempt is made {when}',
            max(math.ceil(wait), 1),
        )
        error.is_logged = circuit.is_logged
        raise error

    def failed(self, origin: Origin, error: UpstreamError) -> None:
        """Note a request without a head: no connection, no TLS, or no answer in time. `error` says why."""
        if isinstance(error, RateLimited | CircuitOpen | Busy):
            return  # the origin was not asked
        circuit = self._circuits.get(origin) or self._new(origin)
        now = self._clock()
        circuit.cause, circuit.is_logged = str(error), error.is_logged
        if circuit.until > now:
            return  # sent before it was opened
        circuit.failures += 1
        if circuit.failures < FAILURES:
            return
        circuit.seconds = min(circuit.seconds * 2 or OPEN_MIN, OPEN_MAX)
        seconds = circuit.seconds * (1.0 - JITTER * self._rng.random())
        first, circuit.until, circuit.probe = not circuit.until, now + seconds, -math.inf
        log.log(
            log_level(error) if first else logging.DEBUG,
            *("%s failed %d times in a row: %s; asked again in %.1f s", origin.name, circuit.failures),
            *(error, seconds),
        )
        self._counters.circuit(origin.name, True)
        self._fail_waiting(origin, error)

    def answered(self, origin: Origin) -> None:
        """Note that a head came, whatever it says."""
        dials = self._dials.get(origin)
        if dials is not None:
            dials.alive = self._clock()
        circuit = self._circuits.pop(origin, None)
        if circuit is not None and circuit.until:
            log.warning("%s answers again", origin.name)
            self._show(origin)

    def known(self) -> Iterator[tuple[Origin, int, float, str]]:
        """Return the origins that have failed since they answered last: how often in a row, and at last why.

        The third is for how many seconds none is asked any more: 0.0 where its circuit is closed.
        """
        now = self._clock()
        for origin, circuit in self._circuits.items():
            yield (
                origin,
                circuit.failures,
                max(circuit.until - now, 0.001) if circuit.until else 0.0,
                circuit.cause,
            )

    def abandoned(self, origin: Origin) -> None:
        """Note a request that ended without an outcome, as when its client leaves: another may probe."""
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
        """Show a registry's circuit as open while that of either scheme is."""
        others = (circuit.until for each, circuit in self._circuits.items() if each.name == origin.name)
        self._counters.circuit(origin.name, any(others))

    # --- tasks that wait for a connection ----------------------------------------------------------------

    async def run(self, origin: Origin, dial: Coroutine[Any, Any, T]) -> T:
        """Await `dial`, but fail with the other dials to the origin as soon as it is known to be in vain.

        A dead host costs the first task that dials it the whole connect timeout, and later ones only the rest
        of that: when the first gets UpstreamTimeout, and the origin has not proved reachable meanwhile, the
        others get it too. An error that opens the circuit fails all of them.
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
            # It holds the task, and an error in the task holds this frame: what is open in it would stay so.
            del scope

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
