"""Hand spans over to a collector, from a thread of its own.

Nobody waits for it: what is too much is dropped.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final

from opentelemetry.context import Context, attach, detach, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

_SAY_EVERY: Final = 60.0  # seconds between two warnings
_LIBRARY: Final = "opentelemetry.exporter.otlp.proto.http"
_TEXT_MAX: Final = 300  # characters of a reason
_QUERY: Final = re.compile(r"\?[^\s'\")]+")  # of the endpoint, in which some collectors want a key


class Reason(logging.Handler):
    """Keeps what the library says first of a batch: later lines only say that it has given up.

    Passed on, that would be some lines every few seconds while a collector is away. `secrets`: what is left
    out of it.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(logging.WARNING)
        self._secrets = sorted(secrets, key=len, reverse=True)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of the library."""
        self.note(record.getMessage())

    def note(self, text: str) -> None:
        """Keep why a batch was not taken, unless that is known."""
        if not self.text:
            text = _QUERY.sub("?...", text)
            for secret in self._secrets:
                text = text.replace(secret, "...")
            self.text = text[:_TEXT_MAX]


class Export(SpanProcessor):
    """The queue and its thread. `spans_dropped`: for want of room, or as the collector did not take them.

    `most`: spans that wait at most. `batch`: that are sent at a time. `delay`: seconds for which a span waits
    for others. `secrets`: what is not to be logged of a collector's refusals.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        most: int = 2048,
        batch: int = 512,
        delay: float = 5.0,
        secrets: Iterable[str] = (),
    ) -> None:
        self._exporter = exporter
        self._most, self._batch, self._delay = most, min(batch, most), delay
        self._queue: deque[ReadableSpan] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.spans_dropped = 0
        self._said = 0
        self._said_at = -_SAY_EVERY
        self._reason = Reason(secrets)
        library = logging.getLogger(_LIBRARY)
        library.addHandler(self._reason)
        library.setLevel(logging.WARNING)
        library.propagate = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: spans are sent when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        with self._changed:
            if self._closing or len(self._queue) >= self._most:
                self.spans_dropped += 1
                return
            self._queue.append(span)
            if len(self._queue) >= self._batch:
                self._changed.notify()

    def shutdown(self) -> None:
        """Send what waits, and end; for a few seconds at most."""
        self.close(5.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: what waits is sent soon."""
        return True

    def close(self, timeout: float) -> None:
        """Send what waits, for `timeout` seconds at most, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        # A thread that waits for its collector is left behind.
        self._thread.join(timeout)

    def _run(self) -> None:
        # What the exporter sends is no work to be traced.
        token = attach(set_value("suppress_instrumentation", True))
        try:
            while self._turn():
                pass
        finally:
            detach(token)
        self._exporter.shutdown()
        logging.getLogger(_LIBRARY).removeHandler(self._reason)

    def _turn(self) -> bool:
        """Send a batch when it is due; False: all is sent, and no more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._queue) >= self._batch, self._delay)
            spans = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
            closing = self._closing
        if spans:
            self._send(spans)
        self._say()
        return bool(spans) or not closing

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        self._reason.text = ""
        try:
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # whatever the library has not caught must not end the thread
            log.debug("exporting spans", exc_info=error)
            self._reason.note(f"{type(error).__name__}: {error}")
            taken = False
        if not taken:
            with self._changed:
                self.spans_dropped += len(spans)

    def _say(self) -> None:
        new = self.spans_dropped - self._said
        if new and monotonic() - self._said_at >= _SAY_EVERY:
            why = self._reason.text or "more than the collector takes in time"
            log.warning("%d spans were dropped: %s", new, why)
            self._said += new
            self._said_at = monotonic()
