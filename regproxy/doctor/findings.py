"""Define a finding: how bad it is, what it is, and what to do."""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import asdict

Level = Literal["ok", "warning", "error"]

_CONTROL: Final = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]+")


class Finding(Struct, frozen=True):
    """One line of the report. `subject` is what was looked at; `fix`: what to do, or empty."""

    level: Level
    subject: str
    what: str
    fix: str = ""

    def line(self) -> str:
        """Return it as one line; text from files and peers can't break out of it."""
        text = f"{self.level:7}  {self.subject}: {self.what}" + (f"; {self.fix}" if self.fix else "")
        return _CONTROL.sub(" ", text)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(subject: str, what: str) -> Finding:
    return Finding("ok", subject, what)


def warning(subject: str, what: str, fix: str) -> Finding:
    return Finding("warning", subject, what, fix)


def error(subject: str, what: str, fix: str) -> Finding:
    return Finding("error", subject, what, fix)


def without_login(url: str) -> str:
    """Return a proxy's URL for people to see: no user, no password, nothing behind the host.

    Cut at the last @, since a password may have any character in it, encoded or not.
    """
    scheme, slashes, rest = url.rpartition("://") if "@" not in url else url.partition("://")
    if not slashes:
        scheme, rest = "", url
    login, at, host = rest.rpartition("@")
    shown = re.split(r"[/?#]", host, maxsplit=1)[0]
    return f"{scheme}{slashes}{'***@' if at and login else ''}{shown}"
