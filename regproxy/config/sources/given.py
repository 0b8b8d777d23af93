"""Keep what was given for a setting, and where; show it without secrets."""

from __future__ import annotations

import re

from msgspec import Struct

from regproxy.config.settings import Setting, ValueSource
from regproxy.config.values.lists import Raw

_SHOWN_SECRET = "(set)"
# The user and password of a URL, in settings where nobody expects them.
_USERINFO = re.compile(r"(?<=://)[^\s,;]*@|[^\s,;|/'\"]+:[^\s,;|'\"]*@")


class Given(Struct, frozen=True):
    """The value given for a setting, its name there (`label`, for error texts), and its source."""

    setting: Setting
    label: str
    raw: Raw
    source: ValueSource

    @property
    def text(self) -> str:
        return self.raw if isinstance(self.raw, str) else " ".join(self.raw)

    @property
    def shown(self) -> str:
        """The text, printable everywhere, without secrets."""
        if self.setting.secret:
            return _SHOWN_SECRET if self.raw else ""
        return self.told

    @property
    def told(self) -> str:
        """The text for the log, without what URLs have ahead of their hosts."""
        return printable(self.hiding(self.text))

    def hiding(self, text: str) -> str:
        """Return what is said of it without those; of a secret nothing is ever repeated."""
        return text if self.setting.secret else _USERINFO.sub("***@", text)


def printable(text: str) -> str:
    """Return text that any UTF-8 stream accepts: the environment may hold bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
