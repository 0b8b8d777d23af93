"""The marked blocks of documents that are made from figures.

<!-- figures: hit -->
whatever is here is replaced
<!-- end of figures -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bench.errors import BenchError

BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n)(.*?)(<!-- end of figures -->\n)", re.DOTALL)


def blocks(text: str) -> list[str]:
    """The names of the blocks of a document, in their order."""
    return [found[2] for found in BLOCK.finditer(text)]


def fill(text: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """The document with every block made anew; BenchError for one that nobody makes, or that has no end."""
    if unknown := set(blocks(text)) - set(makers):
        raise BenchError(f"no such figures: {', '.join(sorted(unknown))}; there are {', '.join(makers)}")
    if text.count("<!-- figures: ") != len(blocks(text)):
        raise BenchError("a block of figures has no end: <!-- end of figures -->")
    return BLOCK.sub(lambda found: f"{found[1]}\n{makers[found[2]]()}\n{found[4]}", text)
