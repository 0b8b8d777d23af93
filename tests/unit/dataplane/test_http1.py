"""HTTP/1.1 framing over bytes alone: in whatever pieces they come, it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regproxy.dataplane.http1 import ChunkReader, connect_target, head_end, proxy_login

BAD_SIZE = "a chunk size is not a hexadecimal number"
BAD_EXTENSION = "a chunk extension is malformed or too long"
NO_SIZE_LF = "a chunk size is not followed by CRLF"
LONG_CHUNK = "a chunk is longer than its size"
NO_CHUNK_LF = "a chunk is not followed by CRLF"
NO_TRAILER_LF = "a trailer line does not end in CRLF"
NO_LAST_LF = "the last chunk is not followed by CRLF"
NO_TRAILER_NAME = "a trailer line without a name"
TRAILER_CONTROL = "a control character in a trailer line"
LONG_TRAILER = "the trailer is too long"

# What comes, the data in it, what is awaited behind it, what is wrong with it, how much was not taken.
CHUNKS = [
    (b"", b"", "size", "", 0),
    (b"5", b"", "size", "", 0),
    (b"5\r", b"", "size-lf", "", 0),
    (b"5;", b"", "extension", "", 0),
    (b"5\r\n", b"", "data", "", 0),
    (b"5\r\nhell", b"hell", "data", "", 0),
    (b"5\r\nhello", b"hello", "data-cr", "", 0),
    (b"5\r\nhello\r", b"hello", "data-lf", "", 0),
    (b"5\r\nhello\r\n", b"hello", "size", "", 0),
    (b"5\r\nhello\r\n0\r\n", b"hello", "trailer-start", "", 0),
    (b"5\r\nhello\r\n0\r\n\r", b"hello", "last-lf", "", 0),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", "end", "", 0),
    (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 ", b"hello", "end", "", 9),
    (b"0\r\n\r\n", b"", "end", "", 0),
    (b"000\r\n\r\n\r\n", b"", "end", "", 2),
    (b"a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", b"0123456789x", "end", "", 0),
    (b"A\r\n0123456789\r\n00b\r\n0123456789x\r\n0\r\n\r\n", b"01234567890123456789x", "end", "", 0),
    # Data that looks like framing
    (b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r", "end", "", 0),
    # Extensions, with white space ahead of them or not
    (b"2;a=b\r\nhi\r\n0;c\r\n\r\n", b"hi", "end", "", 0),
    (b'2 ; a="\xff;"\r\nhi\r\n0\t\r\n\r\n', b"hi", "end", "", 0),
    (b"2 \t \r\nhi\r\n0 \r\n\r\n", b"hi", "end", "", 0),
    (b"2;\r\nhi\r\n", b"hi", "size", "", 0),
    # `2 0` is 2 or 32, by who reads it
    (b"2 0\r\nhi", b"", "malformed", BAD_EXTENSION, 4),
    (b"2 a=b\r\nhi", b"", "malformed", BAD_EXTENSION, 6),
    (b"2\ta\r\nhi", b"", "malformed", BAD_EXTENSION, 4),
    (b'2;a="\x00"\r\nhi', b"", "malformed", BAD_EXTENSION, 5),
    (b"2;a\x7f\r\nhi", b"", "malformed", BAD_EXTENSION, 4),
    (b"2 \n\r\nhi", b"", "malformed", BAD_EXTENSION, 4),
    # Trailers
    (b"0\r\nA: b\r\n\r\n", b"", "end", "", 0),
    (b"0\r\nA: b", b"", "trailer", "", 0),
    (b"0\r\nA: b\r", b"", "trailer-lf", "", 0),
    (b"0\r\nA: b\r\nC: d\r\n\r\nx", b"", "end", "", 1),
    (b"0\r\nA: b\n\r\n\r\n", b"", "malformed", NO_TRAILER_LF, 4),
    (b"0\r\n\n\r\n", b"", "malformed", NO_TRAILER_LF, 2),
    (b"0\r\nA: b\nGET / HTTP/1.1\r\n\r\n", b"", "malformed", NO_TRAILER_LF, 18),
    (b"0\r\nA: b\r\n folded\r\n\r\n", b"", "malformed", NO_TRAILER_NAME, 10),
    (b"0\r\n: b\r\n\r\n", b"", "malformed", NO_TRAILER_NAME, 6),
    (b"0\r\nA: \x00\r\n\r\n", b"", "malformed", TRAILER_CONTROL, 4),
    (b"0\r\n\x01A: b\r\n\r\n", b"", "malformed", TRAILER_CONTROL, 8),
    # Sizes
    (b"1_0\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"7fffffffffffff\r\nhi", b"hi", "data", "", 0),
    (b"000000000000002\r\nhi\r\n", b"hi", "size", "", 0),
    (b"0000000000000002\r\nhi\r\n", b"", "malformed", BAD_SIZE, 6),
    (b"fffffffffffffffff\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"\r\n", b"", "malformed", BAD_SIZE, 1),
    (b" 5\r\n", b"", "malformed", BAD_SIZE, 3),
    (b";a\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"-1\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"+1\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"0x5\r\n", b"", "malformed", BAD_SIZE, 3),
    (b"5g\r\n", b"", "malformed", BAD_SIZE, 2),
    (b"5\n", b"", "malformed", BAD_SIZE, 0),
    (b"5\xb2\r\n", b"", "malformed", BAD_SIZE, 2),
    # Line ends (a lone LF is one way to smuggle a request)
    (b"5\rhello", b"", "malformed", NO_SIZE_LF, 4),
    (b"5;a\nhello", b"", "malformed", BAD_EXTENSION, 5),
    (b"5;a\rhello", b"", "malformed", NO_SIZE_LF, 4),
    (b"2\r\nhiya\r\n", b"hi", "malformed", LONG_CHUNK, 3),
    (b"2\r\nhi\n", b"hi", "malformed", LONG_CHUNK, 0),
    (b"2\r\nhi\r0", b"hi", "malformed", NO_CHUNK_LF, 0),
    (b"0\r\n\rx", b"", "malformed", NO_LAST_LF, 0),
    (b"0\r\nA: b\rx", b"", "malformed", NO_TRAILER_LF, 0),
    (b"0\r\nA: b\nC: d\r\n\r\n", b"", "malformed", NO_TRAILER_LF, 8),
    (b"0\r\n\nA: b\r\n\r\n", b"", "malformed", NO_TRAILER_LF, 8),
    # What came ahead of the fault has been good
    (b"2\r\nhi\r\n3\r\nyou\r\nz", b"hiyou", "malformed", BAD_SIZE, 0),
]
LONG = [
    (b"2;%b\r\nhi" % (b"x" * 8191), b"hi", "data-cr", "", 0),
    (b"2;%b\r\nhi" % (b"x" * 8193), b"", "malformed", BAD_EXTENSION, 4),
    (b"2%b\r\nhi" % (b" " * 8193), b"hi", "data-cr", "", 0),
    (b"2%b\r\nhi" % (b" " * 8194), b"", "malformed", BAD_EXTENSION, 4),
    (b"0\r\nx%b\r\n\r\n" % (b"x" * 8191), b"", "end", "", 0),
    (b"0\r\nx%b\r\n\r\n" % (b"x" * 8193), b"", "malformed", LONG_TRAILER, 4),
    # All of its lines together
    (b"0\r\n%b\r\n" % (b"A: b\r\n" * 2048), b"", "end", "", 0),
    (b"0\r\n%b\r\n" % (b"A: b\r\n" * 2049), b"", "malformed", LONG_TRAILER, 6),
]


def pieces(data: bytes, *cuts: int) -> list[bytes]:
    """Cut at these offsets, in order."""
    ends = [*cuts, len(data)]
    return [data[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


def fragmentations(data: bytes) -> Iterator[list[bytes]]:
    """In up to three pieces in any way, and by the byte."""
    yield [data]
    for count in (1, 2):
        for cuts in combinations(range(1, len(data)), count):
            yield pieces(data, *cuts)
    yield [data[i : i + 1] for i in range(len(data))]


def decode(parts: list[bytes]) -> tuple[bytes, str, str, int]:
    """What a reader makes of it, and how much it did not take."""
    reader, runs = ChunkReader(), list[bytes]()
    for part in parts:
        runs += reader.feed(part)
    assert b"" not in runs
    return b"".join(runs), reader.state, reader.error, sum(map(len, parts)) - reader.used


@pytest.mark.parametrize("body, data, state, error, rest", CHUNKS)
def test_chunks(body: bytes, data: bytes, state: str, error: str, rest: int) -> None:
    for parts in fragmentations(body):
        assert decode(parts) == (data, state, error, rest), parts


@pytest.mark.parametrize("row", range(len(LONG)))
def test_long_framing(row: int) -> None:
    body, *want = LONG[row]
    for size in (len(body), 4096, 1000, 1):
        assert decode([body[i : i + size] for i in range(0, len(body), size)]) == tuple(want)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=6000), max_size=6), st.lists(st.integers(0, 40_000), max_size=8)
)
def test_any_body(chunks: list[bytes], cuts: list[int]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nrest"
    parts = pieces(body, *sorted(min(cut, len(body)) for cut in cuts))
    assert decode(parts) == (b"".join(chunks), "end", "", 4)


def test_small_chunks_are_one_run() -> None:
    """Large ones are not moved to what is ahead of them."""
    small, large = b"s" * 4096, b"l" * 4097
    chunks = (b"a", small, b"b", large, b"c", large, large)
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert ChunkReader().feed(body) == [b"a" + small + b"b", large + b"c", large, large]


HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
NOT_YET, TOO_LARGE = 0, -1
# What has come, and how long the head is that it begins with.
HEADS = [
    (b"", NOT_YET),
    (HEAD[:-1], NOT_YET),
    (HEAD, len(HEAD)),
    (HEAD + HEAD, len(HEAD)),
    (HEAD + b"\r\n", len(HEAD)),
    (b"GET / HTTP/1.1\n\n", 16),
    (b"GET / HTTP/1.1\r\n\n", 17),
    (b"GET / HTTP/1.1\n\r\n", 17),
    (b"GET / HTTP/1.1\r\r\n\r", NOT_YET),
    (b"a\r\n\rb\r\n\r\n", 9),
    (b"a\n b\r\nc\r\n\r\n\r\n", 11),
]


@pytest.mark.parametrize("data, want", HEADS)
def test_head(data: bytes, want: int) -> None:
    """Looked for anew with each piece, from where the last look ended."""
    for parts in fragmentations(data):
        seen, scanned, found = b"", 0, NOT_YET
        for part in parts:
            seen += part
            found, scanned = head_end(seen, 100, scanned)
            if found:
                break
            assert scanned == max(len(seen) - 3, 0)
        assert found == want, parts
        assert scanned == 0 or want == NOT_YET


@pytest.mark.parametrize(
    "data, limit, want",
    [
        (HEAD, len(HEAD), len(HEAD)),
        (HEAD, len(HEAD) - 1, TOO_LARGE),
        # The limit is the head's, not that of what comes behind it.
        (HEAD + b"x" * 100, len(HEAD), len(HEAD)),
        (HEAD[:-2], len(HEAD) - 2, NOT_YET),
        (HEAD[:-2], len(HEAD) - 3, TOO_LARGE),
        (b"x" * 100, 100, NOT_YET),
        (b"x" * 101, 100, TOO_LARGE),
        (b"", 0, NOT_YET),
    ],
)
def test_head_limit(data: bytes, limit: int, want: int) -> None:
    assert head_end(data, limit)[0] == want


@pytest.mark.parametrize(
    "line, want",
    [
        (b"CONNECT a.test:443 HTTP/1.1", ("a.test", 443)),
        (b"CONNECT A.Test.:1 HTTP/1.0", ("a.test", 1)),
        (b"CONNECT [2001:DB8::1]:65535 HTTP/1.1", ("2001:db8::1", 65535)),
        (b"CONNECT 192.0.2.1:80 HTTP/1.9", ("192.0.2.1", 80)),
        (b"CONNECT a.test HTTP/1.1", None),
        (b"CONNECT a.test: HTTP/1.1", None),
        (b"CONNECT a.test:0 HTTP/1.1", None),
        (b"CONNECT a.test:65536 HTTP/1.1", None),
        (b"CONNECT a.test:4430000 HTTP/1.1", None),
        (b"CONNECT a.test:443 HTTP/2.0", None),
        (b"CONNECT a.test:443  HTTP/1.1", None),
        (b"CONNECT a.test:443 HTTP/1.1 ", None),
        (b"CONNECT :443 HTTP/1.1", None),
        (b"CONNECT .:443 HTTP/1.1", None),
        (b"CONNECT a.test..:443 HTTP/1.1", None),
        (b"CONNECT [::1:443 HTTP/1.1", None),
        (b"CONNECT []:443 HTTP/1.1", None),
        (b"CONNECT a/b:443 HTTP/1.1", None),
        (b"CONNECT u@a:443 HTTP/1.1", None),
        (b"CONNECT %b:443 HTTP/1.1" % (b"a" * 254), None),
        (b"CONNECT %b.:443 HTTP/1.1" % (b"a" * 253), ("a" * 253, 443)),
        # What the parser of other heads refuses, too
        (b"CONNECT a.test..:443 HTTP/1.1", None),
        (b"CONNECT a.test:000443 HTTP/1.1", None),
        (b"CONNECT [abc]:443 HTTP/1.1", None),
        (b"CONNECT [192.0.2.1]:443 HTTP/1.1", None),
        (b"CONNECT [2a:1.]:443 HTTP/1.1", None),
        (b"CONNECT [:%b]:443 HTTP/1.1" % (b"1" * 41), None),
        (b"connect a.test:443 HTTP/1.1", None),
        (b"GET / HTTP/1.1", None),
    ],
)
def test_connect(line: bytes, want: tuple[str, int] | None) -> None:
    for end in (b"\r\n\r\n", b"\r\nHost: x\r\nA:\r\nB: \xe4\t\r\nContent-Length: 0 \r\n\r\n"):
        assert connect_target(line + end) == want
    assert connect_target(line) is None


LOGINS = [
    (b"", None),
    (b"Proxy-Authorization: Basic x\r\n", b"Basic x"),
    (b"proxy-AUTHORIZATION:Basic x \t\r\n", b"Basic x"),
    (b"Host: a\r\nProxy-Authorization: \t Basic x\r\nB: c\r\n", b"Basic x"),
    (b"Proxy-Authorization: Basic x\n", b"Basic x"),
    (b"Proxy-Authorization:\r\n", b""),
    (b"Proxy-Authorization: a\r\nproxy-authorization: b\r\n", b"a\nb"),
    (b"Proxy-Authorization:\r\n Basic x\r\n", b""),
    (b"Proxy-Authorization : Basic x\r\n", None),
    (b" Proxy-Authorization: Basic x\r\n", None),
    (b"X-Proxy-Authorization: Basic x\r\n", None),
    (b"Proxy-Authorizatio: Basic x\r\n", None),
    (b"Proxy-Authorization", None),
    (b"A: Proxy-Authorization: Basic x\r\n", None),
]


@pytest.mark.parametrize("fields, want", LOGINS)
def test_the_login_of_a_connect(fields: bytes, want: bytes | None) -> None:
    assert proxy_login(b"CONNECT reg.test:443 HTTP/1.1\r\n" + fields + b"\r\n") == want


def test_a_connect_line_is_no_field() -> None:
    assert proxy_login(b"Proxy-Authorization: x HTTP/1.1\r\n\r\n") is None


@given(st.binary(max_size=200))
def test_any_head_can_be_looked_through(data: bytes) -> None:
    assert isinstance(proxy_login(data), bytes | None)


@pytest.mark.parametrize(
    "end",
    [
        b"\n\n",
        b"\nHost: x\r\n\r\n",
        b"\r\nHost: x\n\r\n",
        b"\r\nHost: x\r\n\n",
        b"\r\nHost: x\ry: z\r\n\r\n",
        b"\r\nHost: x\r\r\n\r\n",
        b"\r\nHost: x\r\n folded\r\n\r\n",
        b"\r\nHost : x\r\n\r\n",
        b"\r\n: x\r\n\r\n",
        b"\r\nnonsense\r\n\r\n",
        b"\r\nA\x00: x\r\n\r\n",
        b"\r\nA: \x00\r\n\r\n",
        b"\r\nA(b): x\r\n\r\n",
        b"\r\nContent-Length: 5\r\n\r\n",
        b"\r\ncontent-LENGTH: 00\r\n\r\n",
        b"\r\nContent-Length:\r\n\r\n",
        b"\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\r\ntransfer-encoding:\r\n\r\n",
    ],
    ids=str,
)
def test_connect_heads_that_can_be_read_in_two_ways(end: bytes) -> None:
    """RFC 9110 9.3.6: it has no content; RFC 9112 2.2, 5.1 and 5.2: what no line of a head is."""
    assert connect_target(b"CONNECT a.test:443 HTTP/1.1" + end) is None
