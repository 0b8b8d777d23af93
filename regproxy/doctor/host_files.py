"""Read a host's files and processes, below a root that need not be /."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

_FILE_MAX = 4 << 20  # bytes; a bundle of CAs has a quarter of a MiB


class Unreadable(Exception):
    """A file that is there and can't be read or parsed; the text says why."""


class Process(Struct, frozen=True):
    """A running process; `environ` is None where this user may not read it."""

    pid: int
    name: str
    environ: dict[str, str] | None


class HostFiles(Struct, frozen=True):
    """The file system of the host that is examined."""

    root: Path = Path("/")

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """Return a file's text, None if there is none. Raises Unreadable."""
        try:
            with self._at(path).open("rb") as file:
                return file.read(_FILE_MAX).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as why:
            raise Unreadable(f"{path}: {why.strerror}") from None

    def json(self, path: str) -> dict[str, Any] | None:
        """Return the object in a JSON file, None if there is no file or it is empty. Raises Unreadable."""
        text = self.text(path)
        if text is None or not text.strip():
            return None
        try:
            found = json.loads(text)
        except ValueError as why:
            raise Unreadable(f"{path} is not JSON: {why}") from None
        if not isinstance(found, dict):
            raise Unreadable(f"{path} is not a JSON object")
        return found

    def toml(self, path: str) -> dict[str, Any] | None:
        """Return the tables of a TOML file, None if there is no file. Raises Unreadable."""
        text = self.text(path)
        try:
            return None if text is None else tomllib.loads(text)
        except tomllib.TOMLDecodeError as why:
            raise Unreadable(f"{path} is not TOML: {why}") from None

    def paths(self, folder: str, pattern: str) -> list[str]:
        """Return the paths below `folder` that match, as the host knows them."""
        try:
            found = sorted(self._at(folder).glob(pattern))
        except OSError:
            return []
        return ["/" + str(path.relative_to(self.root)) for path in found]

    def processes(self, names: Iterable[str]) -> list[Process]:
        """Return the running processes of these names: of each name the one with the lowest id."""
        wanted, found = set(names), dict[str, Process]()
        for path in sorted(self._at("/proc").glob("[0-9]*"), key=lambda place: int(place.name)):
            try:
                name = (path / "comm").read_text().strip()
            except OSError:  # ended meanwhile
                continue
            if name in wanted and name not in found:
                found[name] = Process(int(path.name), name, _environ(path / "environ"))
        return list(found.values())


def _environ(path: Path) -> dict[str, str] | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    pairs = (entry.decode(errors="replace").partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def table(value: object, *keys: str) -> dict[str, Any]:
    """Return the table at the end of a path of keys, empty where a file has something else there."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def strings(value: object) -> list[str]:
    """Return the strings of a list, or one string as a list."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
