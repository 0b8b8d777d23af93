"""The queue between the event loop and the collector."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from regproxy.tracing.export import Export

SPAN = ReadableSpan("x")


class Exporter(SpanExporter):
    """Notes what it gets; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.result: SpanExportResult | Exception = SpanExportResult.SUCCESS
        self.ended = False
        self.on_export: Callable[[], object] = lambda: None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append(len(spans))
        self.on_export()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.gate.set()


def test_what_waits_is_sent_at_the_end(exporter: Exporter) -> None:
    export = Export(exporter, most=100, batch=4, delay=60.0)
    for _ in range(10):
        export.on_end(SPAN)
    export.close(30.0)
    assert sum(exporter.batches) == 10
    assert max(exporter.batches) <= 4
    assert (exporter.ended, export.spans_dropped) == (True, 0)
    export.on_end(SPAN)
    assert export.spans_dropped == 1


def test_a_collector_that_hangs_holds_nobody_up(exporter: Exporter) -> None:
    exporter.gate.clear()
    export = Export(exporter, most=8, batch=2, delay=60.0)
    for _ in range(2):
        export.on_end(SPAN)
    assert exporter.entered.wait(30)
    for _ in range(20):
        export.on_end(SPAN)
    assert export.spans_dropped == 12
    exporter.gate.set()
    export.close(30.0)
    assert sum(exporter.batches) == 10


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, OSError("no")], ids=str)
def test_what_is_not_taken_is_counted(
    result: SpanExportResult | Exception, exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    exporter.result = result
    with caplog.at_level(logging.WARNING):
        export = Export(exporter, batch=1)
        for _ in range(3):
            export.on_end(SPAN)
        export.close(30.0)
    assert export.spans_dropped == 3
    # Once a minute at most.
    (record,) = caplog.records
    assert "spans were dropped: " in record.getMessage()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["batch code: 404, reason: Not Found"], "batch code: 404, reason: Not Found"),
        (
            ["transient error: certificate verify failed", "given up"],
            "transient error: certificate verify failed",
        ),
        (["Invalid header value: 'Bearer s3cret'"], "Invalid header value: 'Bearer ...'"),
        (
            ["Max retries exceeded with url: /v1/traces?key=s3 (Caused by x)"],
            "Max retries exceeded with url: /v1/traces?... (Caused by x)",
        ),
        ([], "more than the collector takes in time"),
    ],
)
def test_why_they_are_not_taken(
    exporter: Exporter, caplog: pytest.LogCaptureFixture, said: list[str], told: str
) -> None:
    """What the library says of it is told once, with the drops, and without what was secret."""
    library = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    exporter.result = SpanExportResult.FAILURE
    exporter.on_export = lambda: list(map(library.error, said))
    with caplog.at_level(logging.WARNING):
        export = Export(exporter, batch=1, secrets={"s3cret"})
        export.on_end(SPAN)
        export.close(30.0)
    told_here = [each.getMessage() for each in caplog.records if each.name == "regproxy.tracing.export"]
    assert told_here == [f"1 spans were dropped: {told}"]
