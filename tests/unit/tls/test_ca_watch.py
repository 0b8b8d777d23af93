"""Reading the CA's files again: what counts as a change, and what becomes of files that can't be used."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from base64 import encodebytes
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from regproxy.tls import ca_watch
from regproxy.tls.ca_files import CaFiles, CaPair, load
from regproxy.tls.ca_watch import CaWatch
from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import make_ca


@pytest.fixture
def files(tmp_path: Path) -> CaFiles:
    found = CaFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
    load(found, time.time(), make=SigningScope())
    return found


def write(files: CaFiles, pair: tuple[bytes, bytes]) -> None:
    files.crt.write_bytes(pair[0])
    files.key.write_bytes(pair[1])


def test_what_is_as_it_was(files: CaFiles) -> None:
    assert CaWatch(files).look() is None


def test_a_new_pair(files: CaFiles) -> None:
    watch, pair = CaWatch(files), make_ca(time.time())
    write(files, pair)
    (found,) = watch.look() or ()
    assert found.anchors_pem == pair[0]
    assert watch.look() is None


def test_a_ca_that_waits(files: CaFiles) -> None:
    watch = CaWatch(files)
    files.next.write_bytes(b"".join(make_ca(time.time())))
    assert len(watch.look() or ()) == 2
    files.next.unlink()
    assert len(watch.look() or ()) == 1


def test_a_passphrase_that_changes(tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("one")
    files = CaFiles(tmp_path / "ca.crt", tmp_path / "ca.key", phrase)
    load(files, time.time(), make=SigningScope())
    watch = CaWatch(files)
    write(files, make_ca(time.time(), SigningScope(), b"two words"))
    assert watch.look() is None
    phrase.write_text("two words")
    assert watch.look() is not None


def test_half_a_pair_is_said_once(files: CaFiles, caplog: pytest.LogCaptureFixture) -> None:
    watch, (crt, key) = CaWatch(files), make_ca(time.time())
    files.crt.write_bytes(crt)
    with caplog.at_level(logging.WARNING):
        assert [watch.look() for _ in range(3)] == [None] * 3
        files.key.unlink()
        assert watch.look() is None
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        f"not the key of {files.crt}; put the pair back, or remove both; the CA that is in use goes on",
        "No such file or directory; this user has to be able to read it, or to make it;"
        " the CA that is in use goes on",
    ]
    assert not files.key.exists()  # nothing is made here
    files.key.write_bytes(key)
    assert watch.look() is not None


def odd_certificates() -> dict[str, bytes]:
    """Return certificates in PEM of other programs that the library reads in part, or not at all."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2046, 1, 1))
        .add_extension(x509.BasicConstraints(True, None), True)
    )
    plain = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    x400 = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3004a3020500"))
    named = builder.add_extension(x400, False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    found = {
        "an X.400 address": named,
        "version 9": plain.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020108"), 1),
        "an unknown kind of key": plain.replace(
            bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209"), 1
        ),
    }
    frame = "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n"
    return {what: frame.format(encodebytes(der).decode()).encode() for what, der in found.items()}


@pytest.mark.parametrize("what", odd_certificates())
def test_what_the_library_can_not_read_is_said_once(
    files: CaFiles, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Not by a traceback each second."""
    watch = CaWatch(files)
    files.crt.write_bytes(odd_certificates()[what])
    assert [watch.look() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert f"{files.crt}" in record.getMessage() and "the CA that is in use goes on" in record.getMessage()


def test_files_that_change_while_they_are_read(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows then which of them were read: they are read once more."""
    watch, pair = CaWatch(files), make_ca(time.time())
    write(files, pair)

    def slowly(*args: object) -> tuple[CaPair, ...]:
        found = load(files, time.time())
        os.utime(files.key, (1, 1))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(ca_watch, "load", slowly)
        assert watch.look() is None
    assert watch.look() is not None


def test_the_event_loop_gets_what_is_new(files: CaFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca_watch, "LOOK_SECONDS", 0.0)
    pair = make_ca(time.time())

    async def run() -> bytes:
        watch, got = CaWatch(files), asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(watch.run(got.set_result))
        write(files, pair)
        (found,) = await got
        running.cancel()
        pem: bytes = found.anchors_pem
        return pem

    assert asyncio.run(run()) == pair[0]
