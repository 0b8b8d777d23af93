"""Read a tar archive of which nothing is believed: it comes from elsewhere, and may be a stream.

What is no plain file is passed over. What would take memory or room by a few bytes is refused: names and
attributes (of GNU and pax headers, which are read into memory as a whole) of more than HEADERS_MAX bytes, and
sparse files, whose holes would be written.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Final, Self

HEADERS_MAX: Final = 1 << 20  # bytes
_HEADERS: Final = frozenset(
    {
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    }
)


class _Member(tarfile.TarInfo):
    """A header as tarfile reads it, checked before what belongs to it is read.

    Each version of Python has its own way to it: `frombuf` is passed by since 3.13.4, `_proc_member` by none.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> Self:
        if self.size < 0:
            raise tarfile.ReadError("sizes below zero")
        if self.type in _HEADERS and self.size > HEADERS_MAX:
            raise tarfile.ReadError(f"a name or attributes of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("sparse files")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def members(source: str, stream: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield the name, size and content of each plain file of an archive, in the order in which they come.

    `source`: its path, also of a compressed one; `-`: from `stream`. Content has to be read before the next
    one. Raises TarError, OSError, as reading content does.
    """
    try:
        with _opened(source, stream) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers all
                if member.issparse() or member.size < 0:
                    raise tarfile.HeaderError("sparse files, or sizes below zero")
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield member.name, member.size, content
    except (ValueError, RecursionError):
        raise tarfile.ReadError("malformed headers") from None


def _opened(source: str, stream: IO[bytes]) -> tarfile.TarFile:
    if source == "-":
        return tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member)
    return tarfile.open(source, mode="r|*", tarinfo=_Member)
