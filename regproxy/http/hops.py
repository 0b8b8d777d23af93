"""Whom a request was sent to on its way, redirects included, as one text that processes can tell each other.

hops = hop *(SP hop)
hop  = host "/" address ":" port "/" seconds ["/" asked]     ; until the answer's head
"""

from __future__ import annotations

import re
from typing import NamedTuple

# It is read from files that anybody may have written, and goes into the log.
_HOP = re.compile(
    r"([0-9A-Za-z_.:%-]+)/(\[[0-9A-Za-z_.:%-]+\]|[0-9A-Za-z_.%-]+):([0-9]{1,5})/([0-9.]+)(?:/([0-9]{1,5}))?"
)


class Hop(NamedTuple):
    """One of them; `address` is without brackets. `asked`: the origin's port, 0 where it is `port`."""

    host: str
    address: str
    port: int
    seconds: str
    asked: int = 0


def hop(host: str, address: str, port: int, seconds: float, asked: int = 0) -> str:
    """Return the text of one hop."""
    site = f"[{address}]" if ":" in address else address
    return f"{host}/{site}:{port}/{seconds:.3f}" + (f"/{asked}" if asked not in (0, port) else "")


def parse_hops(text: str) -> list[Hop]:
    """Return the hops of a text in their order; what is none is left out."""
    found = (_HOP.fullmatch(word) for word in text.split(" ")) if text else ()
    return [
        Hop(hit[1], hit[2].strip("[]"), int(hit[3]), hit[4], int(hit[5] or 0))
        for hit in found
        if hit is not None
    ]
