"""Records of our own on a connection that OpenSSL began: every suite, small answers behind large ones."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Callable
from typing import IO

import pytest

from tests.support.byte_streams import End
from tests.support.images import digest_of
from tests.support.origin import Origin, blob_answer
from tests.support.proxy import Proxy

BODY = bytes(range(256)) * 8192  # 2 MiB: several batches
DIGEST = digest_of(BODY)
SMALL = b"{}" * 700
SMALL_DIGEST = digest_of(SMALL)


@pytest.fixture
def proxy(start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]) -> tuple[Proxy, Origin]:
    origin = start_origin("reg.test")
    origin.on(f"/v2/a/blobs/{DIGEST}", blob_answer(DIGEST, BODY))
    origin.on(f"/v2/a/blobs/{SMALL_DIGEST}", blob_answer(SMALL_DIGEST, SMALL))
    return start_proxy(origin), origin


def s_client(
    proxy: Proxy, origin: Origin, *options: str, version: str = "-tls1_3"
) -> subprocess.Popen[bytes]:
    """Python's ssl can neither choose a TLS 1.3 suite nor ask for a KeyUpdate, so openssl talks."""
    command = [
        *("openssl", "s_client", "-connect", origin.authority, "-servername", "reg.test", version),
        *("-proxy", f"{proxy.address[0]}:{proxy.port}", "-CAfile", str(proxy.ca_path)),
        *("-verify_return_error", *options),
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


def get(digest: str, *headers: str) -> bytes:
    lines = (f"GET /v2/a/blobs/{digest} HTTP/1.1", "Host: reg.test", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    "suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
)
def test_every_suite(proxy: tuple[Proxy, Origin], suite: str) -> None:
    """Cold, cached, small, ranges: one after another on one connection, whose record numbers go on."""
    requests = (
        get(SMALL_DIGEST)
        + get(DIGEST)
        + get(SMALL_DIGEST)
        + get(DIGEST)
        + get(DIGEST, "Range: bytes=16383-1000000")
        + get(SMALL_DIGEST, "Connection: close")
    )
    with s_client(*proxy, "-quiet", "-ign_eof", "-ciphersuites", suite) as talk:
        out, err = talk.communicate(requests, timeout=30)
    bodies = (SMALL, BODY, SMALL, BODY, BODY[16383:1000001], SMALL)
    for body in bodies:
        head, _, rest = out.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 206 ")), (head[:200], err[-500:])
        assert rest[: len(body)] == body
        out = rest[len(body) :]
    assert out == b""
    # OpenSSL calls an end without our close_notify an error.
    assert b"unexpected eof" not in err and b"error" not in err.lower(), err


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_orderly_end_behind_a_large_body(proxy: tuple[Proxy, Origin], version: ssl.TLSVersion) -> None:
    running, origin = proxy
    context = ssl.create_default_context(cadata=running.ca_pem.decode())
    context.minimum_version = context.maximum_version = version
    with running.client(origin.authority, context=context) as client:
        assert client.get(f"/v2/a/blobs/{DIGEST}").body == BODY
        reply = client.get(f"/v2/a/blobs/{DIGEST}", {"Connection": "close"})
        assert (reply.body, reply.complete) == (BODY, True)
        assert client.read_end()[1] == End.CLOSE_NOTIFY


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("length", ["512", "4096"])
def test_short_records(length: str, version: str, proxy: tuple[Proxy, Origin]) -> None:
    """A client that takes no longer ones (RFC 6066 section 4) gets no longer ones."""
    options = ("-quiet", "-ign_eof", "-maxfraglen", length)
    with s_client(*proxy, *options, version=version) as talk:
        out, err = talk.communicate(get(DIGEST) + get(DIGEST, "Connection: close"), timeout=30)
    assert out.count(BODY) == 2, (out[-200:], err[-500:])


def test_openssl_makes_all_records(
    start_origin: Callable[..., Origin], start_proxy: Callable[..., Proxy]
) -> None:
    """REGPROXY_TLS_RECORDS=openssl: a KeyUpdate behind a large body is answered, too."""
    origin = start_origin("reg.test")
    origin.on(f"/v2/a/blobs/{DIGEST}", blob_answer(DIGEST, BODY))
    running = start_proxy(origin, REGPROXY_TLS_RECORDS="openssl")
    assert "OpenSSL makes all of them (REGPROXY_TLS_RECORDS=openssl)" in running.log()
    with s_client(running, origin) as talk:
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write(get(DIGEST))
        talk.stdin.flush()
        out = b""
        while BODY not in out and (piece := some(talk.stdout)):
            out += piece
        talk.stdin.write(b"K\n")
        talk.stdin.flush()
        asked = threading.Thread(target=ask_when_updated, args=(talk,))
        asked.start()
        while out.count(BODY) < 2 and (piece := some(talk.stdout)):
            out += piece
        asked.join()
        talk.communicate(timeout=30)
    assert out.count(BODY) == 2


def test_a_key_update_that_wants_an_answer(proxy: tuple[Proxy, Origin]) -> None:
    """OpenSSL answers it, and makes the records of that connection from then on."""
    with s_client(*proxy) as talk:
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write(b"K\n")
        talk.stdin.flush()
        asked = threading.Thread(target=ask_when_updated, args=(talk,))
        asked.start()
        out = b""
        while BODY not in out and (piece := some(talk.stdout)):
            out += piece
        asked.join()
        talk.communicate(timeout=30)
    assert BODY in out


def some(stream: IO[bytes]) -> bytes:
    """Return what is there, b"" at the end."""
    return os.read(stream.fileno(), 1 << 20)


def ask_when_updated(talk: subprocess.Popen[bytes]) -> None:
    """openssl says KEYUPDATE on its standard error when it has sent one."""
    assert talk.stdin is not None and talk.stderr is not None
    said = b""
    while b"KEYUPDATE" not in said and (piece := some(talk.stderr)):
        said += piece
    talk.stdin.write(get(DIGEST, "Connection: close"))
    talk.stdin.flush()
