"""W3C Trace Context: what of a client's fields is believed."""

from __future__ import annotations

import pytest

from regproxy.http.messages import parse_request
from regproxy.http.trace_context import REQUEST_ID_MAX, TraceContext, own_id_of, parse_traceparent, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

GOOD = [
    (f"00-{TRACE}-{SPAN}-01", True),
    (f"00-{TRACE}-{SPAN}-00", False),
    (f"00-{TRACE}-{SPAN}-03", True),
    (f"00-{TRACE}-{SPAN}-fe", False),
    (f" 00-{TRACE}-{SPAN}-01\t", True),
    # A higher version is read as far as it is known (3.2.3).
    (f"01-{TRACE}-{SPAN}-01", True),
    (f"cc-{TRACE}-{SPAN}-01-what else there is", True),
]
BAD = [
    "",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"01-{TRACE}-{SPAN}-01more",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-1",
    f"0-{TRACE}-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f"00-{TRACE}-{SPAN}-0g",
]


@pytest.mark.parametrize("text, sampled", GOOD)
def test_well_formed(text: str, sampled: bool) -> None:
    assert parse_traceparent([text.encode()]) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize("text", BAD)
def test_malformed(text: str) -> None:
    assert parse_traceparent([text.encode()]) is None


def test_two_are_none() -> None:
    assert parse_traceparent(2 * [GOOD[0][0].encode()]) is None
    assert parse_traceparent([]) is None


@pytest.mark.parametrize("sampled", [True, False])
def test_it_is_written_as_it_is_read(sampled: bool) -> None:
    context = TraceContext(TRACE, SPAN, sampled)
    assert parse_traceparent([context.traceparent]) == context


def test_of_a_request() -> None:
    head = f"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: {GOOD[0][0]}\r\nX-Request-ID: a b\xe9\r\n\r\n"
    request = parse_request(head.encode("latin-1"))
    assert trace_of(request) == TraceContext(TRACE, SPAN, True)
    assert own_id_of(request) == "a?b?"
    bare = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (trace_of(bare), own_id_of(bare)) == (None, "")


def test_a_long_id_is_cut() -> None:
    request = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + 5000 * b"x" + b"\r\n\r\n")
    assert own_id_of(request) == REQUEST_ID_MAX * "x"
