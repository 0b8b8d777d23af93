"""Sizes as people read them."""

from __future__ import annotations


def size_text(size: float) -> str:
    """Return a human-readable size: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
