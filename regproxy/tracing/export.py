"""Hand spans over to a collector, from a thread of its own.

Nobody waits for it: what is too much is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Final

from opentelemetry.context import Context, attach, detach, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

_SAY_EVERY: Final = 60.0  # seconds between two warnings
# Its own word for each batch would be one every few seconds while a collector is away.
_LIBRARY: Final = "opentelemetry.exporter.otlp.proto.http"


class Export(SpanProcessor):
    """The queue and its thread. `spans_dropped`: for want of room, or as the collector did not take them.

    `most`: spans that wait at most. `batch`: that are sent at a time. `delay`: seconds for which a span waits
    for others.
    """

    def __init__(
        self, exporter: SpanExporter, most: int = 2048, batch: int = 512, delay: float = 5.0
    ) -> None:
        self._exporter = exporter
        self._most, self._batch, self._delay = most, min(batch, most), delay
        self._queue: deque[ReadableSpan] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.spans_dropped = 0
        self._said = 0
        self._said_at = -_SAY_EVERY
        logging.getLogger(_LIBRARY).setLevel(logging.CRITICAL)
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
        try:
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # whatever the library has not caught must not end the thread
            log.debug("exporting spans", exc_info=error)
            taken = False
        if not taken:
            with self._changed:
                self.spans_dropped += len(spans)

    def _say(self) -> None:
        new = self.spans_dropped - self._said
        if new and monotonic() - self._said_at >= _SAY_EVERY:
            log.warning("%d spans were dropped: the collector does not take them, or not in time", new)
            self._said += new
            self._said_at = monotonic()
