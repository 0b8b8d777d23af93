"""Say how many bytes there are: in the binary units that settings such as CACHE_MAX_SIZE have."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: float) -> str:
    """Return bytes as text for people, with three digits or four: `512 B`, `1.5 GiB`, `100 MiB`."""
    value, unit = float(size), 0
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 1 if unit and value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"
