"""Names of all files below the cache directory. All code that reads or writes there takes them from here.

blobs/sha256/<2 hex>/<64 hex>    content, named by its digest
parts/                           incomplete content: see `parts`
claims/<64 hex>.tag              which process fetches a tag: see `tags.claim_files`
state/                           state shared by workers and kept across restarts: quotas, token realms
index.sqlite3                    metadata, with SQLite's own files and `.lock` beside it
evict.lock                       held by the process that evicts
quarantine/<64 hex>              bad files that `cache verify` has found
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BLOBS: Final = "blobs/sha256"

PART: Final = ".part"
META: Final = ".meta"
MAP: Final = ".map"
WANT: Final = ".want"
BESIDE: Final = (META, MAP, WANT)  # files beside a part

TAG_CLAIM: Final = ".tag"
LOCK: Final = ".lock"


def blobs(root: Path) -> Path:
    """Return the directory of stored content."""
    return root / BLOBS


def blob(root: Path | str, digest: str) -> str:
    """Return the path of `sha256:<hex>`."""
    return f"{root}/{BLOBS}/{digest[7:9]}/{digest[7:]}"


def parts(root: Path) -> Path:
    """Return the directory of content that is being fetched."""
    return root / "parts"


def tag_claims(root: Path) -> Path:
    """Return the directory of the claims on tags."""
    return root / "claims"


def index(root: Path) -> Path:
    """Return the index's file."""
    return root / "index.sqlite3"


def evict_lock(root: Path) -> Path:
    """Return the file that the evicting process locks."""
    return root / f"evict{LOCK}"


def quarantine(root: Path) -> Path:
    """Return the directory of bad files."""
    return root / "quarantine"


def quotas(root: Path) -> Path:
    """Return the file of the known quotas."""
    return root / "state" / "quotas.json"


def realms(root: Path) -> Path:
    """Return the file of the token realms that registries have named."""
    return root / "state" / "realms.json"
