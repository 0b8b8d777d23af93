"""Write an image layout as a directory or as a tar archive, each content verified as it passes."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, Self

from regproxy.bundles.oci_layout import BundleError

_CHUNK: Final = 1 << 20  # bytes
_PARTIAL: Final = ".partial"


class LayoutWriter(Protocol):
    """Where a layout goes. A context manager: what was not finished is not left as a whole one."""

    def has(self, digest: str, size: int) -> bool:
        """Return whether this content is there already."""

    def blob(self, digest: str, size: int, source: IO[bytes]) -> None:
        """Write content. Raises BundleError where it is not what its digest says, OSError."""

    def file(self, name: str, text: bytes) -> None:
        """Write one of the other files. Raises OSError."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Verified:
    """Reads `source`, `size` bytes, and hashes what passes. `on_bytes`: told of each piece."""

    def __init__(self, source: IO[bytes], size: int, on_bytes: Callable[[int], None]) -> None:
        self._source = source
        self._left = size
        self._on_bytes = on_bytes
        self._hasher = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; b"" at the end."""
        data = self._source.read(min(self._left, size if size >= 0 else _CHUNK, _CHUNK))
        self._left -= len(data)
        self._hasher.update(data)
        self._on_bytes(len(data))
        return data

    def check(self, digest: str) -> None:
        """Raise BundleError unless all bytes have passed and are what the digest says."""
        if self._left or f"sha256:{self._hasher.hexdigest()}" != digest:
            raise BundleError(f"{digest} is damaged: its bytes have another digest")


class DirectoryWriter:
    """Writes below `place`. Contents that are there already stay: a broken export goes on where it was."""

    def __init__(self, place: Path, on_bytes: Callable[[int], None] = lambda size: None) -> None:
        self._place = place
        self._blobs = place / "blobs" / "sha256"
        self._on_bytes = on_bytes

    def __enter__(self) -> Self:
        self._blobs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: without index.json it is no layout."""

    def has(self, digest: str, size: int) -> bool:
        """Return whether this content is there already."""
        with suppress(FileNotFoundError):
            return (self._blobs / digest[7:]).stat().st_size == size
        return False

    def blob(self, digest: str, size: int, source: IO[bytes]) -> None:
        """Write content. Raises BundleError, OSError."""
        verified, partial = Verified(source, size, self._on_bytes), self._blobs / (digest[7:] + _PARTIAL)
        try:
            with partial.open("wb") as file:
                while data := verified.read(_CHUNK):
                    file.write(data)
            verified.check(digest)
            partial.replace(self._blobs / digest[7:])
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def file(self, name: str, text: bytes) -> None:
        """Write one of the other files. Raises OSError."""
        partial = self._place / (name + _PARTIAL)
        try:
            partial.write_bytes(text)
            partial.replace(self._place / name)
        finally:
            partial.unlink(missing_ok=True)


class TarWriter:
    """Writes one tar archive, from its beginning to its end: to the file `place`, or to `stream`."""

    def __init__(
        self,
        place: Path | None,
        stream: IO[bytes] | None = None,
        on_bytes: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._place = place
        self._stream = stream
        self._on_bytes = on_bytes
        self._written: set[str] = set()

    def __enter__(self) -> Self:
        if self._place is not None:
            self._partial = self._place.with_name(self._place.name + _PARTIAL)
            self._file: IO[bytes] = self._partial.open("wb")
        else:
            assert self._stream is not None
            self._file = self._stream
        self._tar = tarfile.open(fileobj=self._file, mode="w|", format=tarfile.PAX_FORMAT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the archive; one that is not whole is removed."""
        if self._place is None:
            self._end(whole=kind is None)
            return
        try:
            with self._file:
                self._end(whole=kind is None)
            if kind is None:
                self._partial.replace(self._place)
        finally:
            self._partial.unlink(missing_ok=True)

    def _end(self, *, whole: bool) -> None:
        if whole:
            self._tar.close()
            self._file.flush()
        elif self._tar.fileobj is not None:
            self._tar.fileobj.close()  # without the blocks that end an archive

    def has(self, digest: str, size: int) -> bool:
        """Return whether this content is in the archive already."""
        return digest in self._written

    def blob(self, digest: str, size: int, source: IO[bytes]) -> None:
        """Write content. Raises BundleError, OSError."""
        verified = Verified(source, size, self._on_bytes)
        try:
            self._add(f"blobs/sha256/{digest[7:]}", size, verified)
        except OSError as error:
            if error.errno is not None:
                raise
            # Of tarfile: the file was too short.
        verified.check(digest)
        self._written.add(digest)

    def file(self, name: str, text: bytes) -> None:
        """Write one of the other files. Raises OSError."""
        self._add(name, len(text), io.BytesIO(text))

    def _add(self, name: str, size: int, source: Verified | io.BytesIO) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._tar.addfile(info, source)


def writer_for(
    target: str, stream: IO[bytes], on_bytes: Callable[[int], None] = lambda size: None
) -> LayoutWriter:
    """Return what writes to a path: a tar archive to `*.tar` or `-` (`stream`), else a directory."""
    if target == "-":
        return TarWriter(None, stream, on_bytes)
    if target.endswith(".tar"):
        return TarWriter(Path(target), None, on_bytes)
    if os.path.lexists(target) and not Path(target).is_dir():
        raise BundleError(f"{target}: it is there, and is no directory; an archive's name ends in .tar")
    return DirectoryWriter(Path(target), on_bytes)
