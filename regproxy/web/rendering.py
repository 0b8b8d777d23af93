"""Make HTML of templates. Everything that is put into one is escaped."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

_FILES: Final = {"style.css": b"text/css; charset=utf-8", "live.js": b"text/javascript; charset=utf-8"}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("regproxy.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "size": size_text,
        "share": share_text,
        "when": when_text,
        "span": span_text,
        "short": short_digest,
    }
    environment.filters.update(filters)
    return environment


def render(name: str, **values: Any) -> bytes:
    """Return the page of a template."""
    return _environment().get_template(name).render(**values).encode()


@cache
def static_file(name: str) -> tuple[bytes, bytes]:
    """Return the type and content of a file that pages load. Raises KeyError where there is none."""
    kind = _FILES[name]
    return kind, (resources.files("regproxy.web") / "static" / name).read_bytes()


def size_text(size: float | None) -> str:
    """Return bytes for people: `1.5 GB`."""
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def share_text(ratio: float | None) -> str:
    """Return a share of 1 as per cent."""
    return "-" if ratio is None else f"{ratio * 100:.1f} %"


def when_text(at: float | None) -> str:
    """Return a time (epoch) in UTC, which needs no question whose time it is."""
    return "-" if not at else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def span_text(seconds: float) -> str:
    """Return a length of time: `3 min`."""
    for size, name in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            unit = {"days": 86_400, "h": 3_600, "min": 60}[name]
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def short_digest(text: str) -> str:
    """Return the first characters of a digest, and anything else as it is."""
    return text[:19] + "…" if text.startswith("sha256:") and len(text) > 20 else text
