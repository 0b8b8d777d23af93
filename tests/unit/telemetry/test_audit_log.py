"""A line of the audit log: what is in it, and that no client makes it too long for a pipe."""

from __future__ import annotations

import json
import select

import pytest

from regproxy.telemetry.audit_log import line_of
from regproxy.telemetry.audit_pulls import Pull, PullKey

KEY = PullKey("192.0.2.1", "ci", "user", "connect", "ghcr.io", "lib/app")


@pytest.mark.parametrize(
    "char", ["x", '"', "\n", "\0", "\x7f", "é", "\u2028", "\U0001f600", "\ud800"], ids=ascii
)
def test_no_text_makes_a_line_too_long_for_a_pipe(char: str) -> None:
    """Else another process's line could come between its parts, on standard output."""
    for length in (1, 42, 43, 256, 5000):
        text = char * length
        key = PullKey(*[text] * len(PullKey._fields))
        pull = Pull(key, "pull", 1.0, 2.0, text, text, [text], decision=text, rule=text, closed=text)
        line = line_of(pull, text, 0.0)
        assert len(line) <= select.PIPE_BUF and line.isascii() and line.count("\n") == 1
        told = json.loads(line)["reference"]
        assert told and text.startswith(told)
        assert len(told) == length or len(json.dumps(told + char)) - 2 > 256


def test_a_line() -> None:
    digest = f"sha256:{'a' * 64}"
    pull = Pull(KEY, "pull", 1.0, 2.0, "v1", digest, sent=10, ended=1.5, source="hit", status=200)
    told = json.loads(line_of(pull, "linux/amd64", 1_700_000_000.25))
    assert told["time"] == "2023-11-14T22:13:21.250Z"
    assert (told["principal"], told["reference"], told["digest"]) == ("ci", "v1", digest)
    assert (told["status"], told["bytes"], told["seconds"], told["from"]) == (200, 10, 0.5, "hit")
