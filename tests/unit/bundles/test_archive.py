"""Nothing that an archive says of itself takes memory or room, or is an error of another sort."""

from __future__ import annotations

import io
import tarfile

import pytest

from regproxy.bundles.archive import HEADERS_MAX, members

HUGE = 1 << 60


def header(kind: bytes, size: int, name: str = "blobs/x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse(size: int) -> bytes:
    """Return the header of a file of GNU's sort that is one hole."""
    block = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    block[386:410] = b"00000000000\0" * 2
    block[482:495] = b"\0\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def attributes(**named: str) -> bytes:
    member = tarfile.TarInfo("blobs/x")
    member.pax_headers = named
    return member.tobuf(tarfile.PAX_FORMAT)


LONG_NAME = header(tarfile.GNUTYPE_LONGNAME, 1) + b"x".ljust(512, b"\0")
HOSTILE = {
    "attributes": (header(tarfile.XHDTYPE, HEADERS_MAX + 1), "attributes of"),
    "attributes-for-all": (header(tarfile.XGLTYPE, HUGE), "attributes of"),
    "name": (header(tarfile.GNUTYPE_LONGNAME, HUGE), "attributes of"),
    "names-of-names": (LONG_NAME * 2000, "malformed|invalid"),
    "hole": (sparse(HUGE), "sparse"),
    "hole-by-attributes": (attributes(**{"GNU.sparse.map": "0,0", "GNU.sparse.size": str(HUGE)}), "sparse"),
    "no-number": (attributes(**{"GNU.sparse.map": "a,b"}), "malformed|invalid"),
}


@pytest.mark.parametrize("archive, says", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers(archive: bytes, says: str) -> None:
    with pytest.raises(tarfile.TarError, match=says):
        for _, _, content in members("-", io.BytesIO(archive + bytes(1024))):
            content.read(1)


def test_a_size_below_zero() -> None:
    """Some versions of Python pass over it, others say what is wrong."""
    try:
        found = list(members("-", io.BytesIO(attributes(size="-5") + bytes(1024))))
    except tarfile.TarError as error:
        assert any(word in str(error) for word in ("below zero", "invalid", "malformed"))
    else:
        assert found == []


def test_only_plain_files_come() -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    archive = b"".join(header(kind, 0) for kind in kinds)
    archive += header(tarfile.REGTYPE, 3, "a") + b"abc".ljust(512, b"\0") + bytes(1024)
    found = [(name, size, file.read()) for name, size, file in members("-", io.BytesIO(archive))]
    assert found == [("a", 3, b"abc")]
