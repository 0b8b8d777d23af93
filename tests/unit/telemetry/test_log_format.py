"""The log's two formats: what a line has, and that nothing that is quoted can make a line."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from regproxy.core.request_context import CURRENT, RequestContext
from regproxy.telemetry import log_format
from regproxy.telemetry.log_format import (
    ALWAYS,
    EXCEPTION,
    FIELDS,
    JsonFormatter,
    TextFormatter,
    say_end,
    style_of,
)
from tests.support import ROOT

FORGED = "a\nb\r\x1b[31m\x85\u2028\u202e\udc80\0c"
BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]")


def record(text: str = "it %s", *args: object, error: BaseException | None = None, **fields: object) -> Any:
    info = (type(error), error, error.__traceback__) if error is not None else None
    args = args or ("works",)
    return logging.getLogger("regproxy.test").makeRecord(
        *("regproxy.test", logging.WARNING, __file__, 1, text, args, info),
        extra=fields,
    )


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.fixture
def in_request() -> Iterator[None]:
    token = CURRENT.set(RequestContext("cafe"))
    yield
    CURRENT.reset(token)


class TestJson:
    def test_what_a_line_has(self) -> None:
        line = json.loads(
            JsonFormatter("worker", 3).format(record(host="a.example:5000", bytes=0, digest=""))
        )
        assert tuple(line) == (*ALWAYS, "host", "bytes")
        assert (line["level"], line["logger"], line["role"], line["slot"]) == (
            "warning",
            "regproxy.test",
            "worker",
            3,
        )
        assert (line["message"], line["host"], line["bytes"]) == ("it works", "a.example:5000", 0)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])

    def test_a_request_is_named(self, in_request: None) -> None:
        assert json.loads(JsonFormatter("worker").format(record()))["request_id"] == "cafe"

    def test_nothing_forges_a_line(self) -> None:
        text = JsonFormatter("worker").format(record("%s", FORGED, host=FORGED, error=raised(FORGED)))
        assert text.isascii() and text.isprintable()
        line = json.loads(text)
        assert (line["message"], line["host"]) == (FORGED, FORGED)
        assert "Traceback" in line["exception"]

    def test_a_long_traceback_loses_its_middle(self) -> None:
        line = json.loads(JsonFormatter("worker").format(record(error=raised("x" * 100_000))))
        assert len(line["exception"]) < 20_000
        assert "Traceback" in line["exception"] and "left out" in line["exception"]

    def test_a_call_with_too_few_values(self) -> None:
        line = json.loads(JsonFormatter("worker").format(record("%s %s", "one")))
        assert line["message"] == "'%s %s' % ('one',)"

    def test_the_docs_name_the_fields(self) -> None:
        log = (ROOT / "docs" / "logging.md").read_text().partition("## The log")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`[^|]*) \|", log, re.MULTILINE)
        named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert named == [*ALWAYS, *FIELDS, EXCEPTION]

    def test_no_field_has_a_name_of_the_record(self) -> None:
        """Else logging itself would refuse it."""
        own = logging.makeLogRecord({}).__dict__
        assert not set(FIELDS) & {*own, "message", "asctime"}


class TestText:
    def test_a_line(self) -> None:
        line = TextFormatter(" worker-1").format(record(host="a.example"))
        assert re.fullmatch(r"[-\d]{10} [\d:]{8},\d{3} WARNING worker-1 regproxy\.test: it works", line)

    def test_a_request_is_named(self, in_request: None) -> None:
        assert TextFormatter().format(record()).endswith(" WARNING regproxy.test: it works [request cafe]")

    def test_nothing_forges_a_line(self) -> None:
        line = TextFormatter().format(record("%s", FORGED))
        assert not BREAKS.search(line)
        assert line.endswith(r"a\nb\r\x1b[31m\x85\u2028\u202e\udc80\x00c")

    def test_a_traceback_is_indented(self) -> None:
        first, *others = TextFormatter().format(record("%s", "x", error=raised(FORGED))).split("\n")
        assert first.endswith(": x")
        assert others[0] == "  Traceback (most recent call last):"
        assert all(line.startswith("  ") and not BREAKS.search(line) for line in others)


class TestEnd:
    @pytest.mark.parametrize("style, want", [("text", "regproxy: one\ntwo\n"), ("json", None)])
    def test_a_line_for_each_error(self, style: Any, want: str | None) -> None:
        out = io.StringIO()
        say_end(ValueError("one\ntwo"), style, "supervisor", stream=out)
        if want is not None:
            assert out.getvalue() == want
            return
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [(line["message"], line["level"], line["role"]) for line in lines] == [
            ("one", "critical", "supervisor"),
            ("two", "critical", "supervisor"),
        ]

    @pytest.mark.parametrize(
        "env, toml, want",
        [
            ({}, None, "text"),
            ({"REGPROXY_LOG_FORMAT": "JSON"}, None, "json"),
            ({"REGPROXY_LOG_FORMAT": "yaml"}, None, "text"),
            ({}, "log_format = 'json'", "json"),
            ({}, "regproxy_log_format = 'json'", "json"),
            ({"REGPROXY_LOG_FORMAT": "text"}, "log_format = 'json'", "text"),
            ({}, "log_format = 'json'\nnonsense = ", "text"),
            ({}, "log_format = ['json']", "text"),
        ],
    )
    def test_the_format_without_a_configuration(
        self, env: dict[str, str], toml: str | None, want: str
    ) -> None:
        assert style_of(env, toml) == want


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back afterwards what log_to_stderr() changes."""
    root = logging.getLogger()
    # What is set to itself is put back to that.
    for place, name in ((root, "level"), (sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(root, "handlers", [])
    yield
    logging.captureWarnings(False)


def test_what_python_itself_says_is_logged(own_log: None, capsys: pytest.CaptureFixture[str]) -> None:
    log_format.log_to_stderr("info", "json", "worker", 0)
    error = raised("loose")
    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: [][0], name="looker")
    thread.start()
    thread.join()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["ended by an error", "the thread looker ended by an error"]
    assert lines[0]["exception"].endswith("ValueError: loose")
    assert "IndexError" in lines[1]["exception"]
