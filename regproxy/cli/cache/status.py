"""`regproxy cache status`: what is in the cache, and what its limits are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from regproxy.cli.cache.opening import Cache, opened
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json, time_text
from regproxy.core.sizes import size_text


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is in the cache and what its limits are."""
    with opened(config) as cache:
        found = _status(cache)
    if as_json:
        show_json(found)
        return
    limit, free = found["max_bytes"], found["free_bytes"]
    oldest = found["oldest_use"]
    lines = [
        ("directory", found["directory"]),
        ("index", "complete" if found["complete"] else "being rebuilt from the blobs"),
        ("blobs", f"{found['objects']}, {size_text(found['bytes'])}"),
        ("on disk", size_text(found["disk"])),
        ("downloads", size_text(found["downloads"])),
        ("limit", size_text(limit) if limit else "none"),
        ("free", f"{size_text(free)}; to be kept free: {size_text(found['free_floor_bytes'])}"),
        ("pins", str(found["pins"])),
        ("oldest use", time_text(oldest) if oldest else "none"),
        ("quarantine", f"{found['quarantined']} files"),
    ]
    for name, value in lines:
        say(f"{name:<11} {value}")


def _status(cache: Cache) -> dict[str, Any]:
    """Return the status. The names are those of the admin API's, where that has the same."""
    from regproxy.cache.eviction import Disk, parts_disk

    index, settings = cache.index, cache.config
    totals, disk, oldest = index.totals(), Disk.of(cache.root), index.oldest(1)
    return {
        "directory": str(cache.root),
        "complete": index.complete,
        "objects": totals.objects,
        "bytes": totals.bytes,
        "disk": totals.disk,
        "downloads": parts_disk(cache.root, time.time())[0],
        "max_bytes": settings.cache_max_size,
        "free_bytes": disk.free,
        "free_floor_bytes": disk.floor(settings.min_free),
        "pins": len({name for name, _ in index.pins()}),
        "oldest_use": oldest[0].last_used if oldest else None,
        "quarantined": _count(cache.root / "quarantine"),
    }


def _count(directory: Path) -> int:
    return sum(1 for _ in directory.iterdir()) if directory.is_dir() else 0
