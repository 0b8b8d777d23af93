"""Who a client is, for rules that name clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

# How a client was told apart: not at all, by its address, by a user name and password, by its certificate.
Kind = Literal["anonymous", "address", "user", "certificate"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A client as rules call it. `name`: its configured name, "" for one that is not known."""

    name: str
    kind: Kind

    @property
    def proven(self) -> bool:
        """Whether the client has shown something that others can't: a password, or a key."""
        return self.kind in ("user", "certificate")


ANONYMOUS: Final = Principal("", "anonymous")
