"""Define every path below the cache directory.

blobs/sha256/<2 hex>/<64 hex>    content, named by its digest
parts/                           content that is not complete: see `parts`
claims/<64 hex>.tag              locks to fetch a tag: see `tags.claim_files`
state/                           shared by workers and kept over a restart: quotas, token realms, usage
index.sqlite3                    metadata, with SQLite's own files and `.lock` beside it
evict.lock                       held by the process that evicts
quarantine/<64 hex>              damaged files moved away by `cache verify`
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Final

BLOBS: Final = "blobs/sha256"

PART: Final = ".part"
META: Final = ".meta"
PUSHED: Final = ".pushed"
MAP: Final = ".map"
WANT: Final = ".want"
BESIDE: Final = (META, MAP, WANT)  # suffixes of the files beside a part

TAG_CLAIM: Final = ".tag"
LOCK: Final = ".lock"


def blobs(root: Path) -> Path:
    """Return the directory of stored content."""
    return root / BLOBS


def blob(root: Path | str, digest: str) -> str:
    """Return the path of the content `sha256:<hex>`."""
    return f"{root}/{BLOBS}/{digest[7:9]}/{digest[7:]}"


def parts(root: Path) -> Path:
    """Return the directory of part files."""
    return root / "parts"


def part(root: Path, digest: str, source: str = "") -> Path:
    """Return the part of `sha256:<hex>`; `source`: the one registry that it is fetched from."""
    mark = f"-{hashlib.sha256(source.encode()).hexdigest()[:8]}" if source else ""
    return parts(root) / f"{digest[7:]}{mark}{PART}"


def anonymous_part(root: Path) -> Path:
    """Return a new part's file, for content whose digest is not known yet."""
    return parts(root) / f"{secrets.token_hex(12)}{PART}"


def pushed(root: Path, digest: str, boot: str, place: str) -> Path:
    """Return the file of a body that a client has uploaded, until the registry confirms it as content.

    `place`: the registry and repository, for which alone it counts. `boot`: of which boot of the machine; the
    bytes of an earlier one may not have reached the disk.
    """
    mark = hashlib.sha256(place.encode()).hexdigest()[:16]
    return parts(root) / f"{digest[7:]}-{mark}-{boot}{PUSHED}"


def tag_claims(root: Path) -> Path:
    """Return the directory of the claims on tags."""
    return root / "claims"


def tag_claim(directory: Path, mark: str) -> Path:
    """Return the claim on the requests with this mark, in tag_claims()."""
    return directory / f"{mark}{TAG_CLAIM}"


def index(root: Path) -> Path:
    """Return the index's file."""
    return root / "index.sqlite3"


def evict_lock(root: Path) -> Path:
    """Return the file whose lock the evicting process holds."""
    return root / f"evict{LOCK}"


def quarantine(root: Path) -> Path:
    """Return the directory of damaged files."""
    return root / "quarantine"


def quotas(root: Path) -> Path:
    """Return the file of the known quotas."""
    return root / "state" / "quotas.json"


def usage(root: Path) -> Path:
    """Return the file of what was pulled, by whom, and what was refused."""
    return root / "state" / "usage.sqlite3"


def access_key(root: Path) -> Path:
    """Return the file of the secret by which askers are named in the index."""
    return root / "state" / "access.key"


def realms(root: Path) -> Path:
    """Return the file of the token realms that registries have named."""
    return root / "state" / "realms.json"
