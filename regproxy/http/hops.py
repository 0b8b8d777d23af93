"""Format and parse the hops of a request: the servers it was sent to in turn, redirects included.

Processes tell them to each other as one text:

hops = hop *(SP hop)
hop  = host "/" address ":" port "/" seconds ["/" asked]

An IPv6 address is in brackets. The seconds are those until the answer's head.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Strict: the text comes from files that other programs may have written, and goes into the log.
_HOP = re.compile(
    r"([0-9A-Za-z_.:%-]+)/(\[[0-9A-Za-z_.:%-]+\]|[0-9A-Za-z_.%-]+):([0-9]{1,5})/([0-9.]+)(?:/([0-9]{1,5}))?"
)


class Hop(NamedTuple):
    """One server; `address` without brackets, `seconds` until its answer's head, as written.

    `asked`: the origin's port, 0 where it is `port`.
    """

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
    """Return the hops of a text in their order; malformed ones are left out."""
    found = (_HOP.fullmatch(word) for word in text.split(" ")) if text else ()
    return [
        Hop(hit[1], hit[2].strip("[]"), int(hit[3]), hit[4], int(hit[5] or 0))
        for hit in found
        if hit is not None
    ]
