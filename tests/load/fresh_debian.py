"""`make test` on a fresh machine with Debian 13, which is a debootstrap root here: `make test-trixie`.

The root directory begins with ca-certificates, git and make, as the README asks for, and keeps what `make`
installs into it for the next time; --fresh begins anew. The work tree goes there by git as it stands, with
what is not committed yet, and without what is built here. Needs root and debootstrap.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support import ROOT, debian_root

RELEASE: Final = "trixie"
PACKAGES: Final = ("ca-certificates", "git", "make")
TREE: Final = Path("srv/regproxy")  # some tests run the program as another user, to whom /root is closed
# What pytest says at its end: "== 5484 passed, 3 skipped in 1043.21s (0:17:23) ==", with -q without the bars.
CLOSING: Final = re.compile(r"^=* ?(\d+ \w+(, )?)+ in [\d.]+s.*$")
# What of the environment goes there: the ways to package registries.
PASSED: Final = re.compile(r"(https?|no|all)_proxy|pip_((extra_)?index_url|trusted_host)", re.I)


def paths(*options: str) -> Iterator[Path]:
    """Yield what `git ls-files` lists, by paths below the work tree."""
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, check=True, capture_output=True)
    yield from (Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name)


def clone(tree: Path) -> None:
    """Clone the work tree, and change the clone as it is changed."""
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(tree)], check=True)
    for path in paths("--deleted"):
        (tree / path).unlink(missing_ok=True)
    for path in paths("--modified", "--others", "--exclude-standard"):
        if (ROOT / path).is_file():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, tree / path)


def environment() -> dict[str, str]:
    """Return the environment of a login of root's, and what is needed to reach package registries."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    return passed | {"HOME": "/root", "PATH": path, "LANG": "C.UTF-8"}


def run(root: Path, command: list[str]) -> tuple[int, str]:
    """Run `command` in the clone; return its exit code, and pytest's closing line or ""."""
    closing = ""
    inside = ["env", "--chdir", f"/{TREE}", *command]
    # All that it started ends with it: it is the first process of a namespace.
    with subprocess.Popen(
        debian_root.enter(root, inside, own_processes=True),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if CLOSING.match(line):
                    closing = line.strip()
        except BaseException:
            process.kill()
            raise
    return process.returncode, closing


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT / "build" / RELEASE)
    parser.add_argument("--fresh", action="store_true", help="remove that root directory first")
    parser.add_argument(
        "--as-is", action="store_true", help="run WORDS as a command in the clone of last time, without make"
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="WORDS",
        help="make's: test; check PYTEST='-k range'; bench",
    )
    return parser.parse_args()


def main() -> int:
    """Return what make returned; 2: it can't be tried here."""
    options = parse()
    if options.as_is and not options.words:
        print("--as-is: which command?", file=sys.stderr)
        return 2
    if lacking := debian_root.lacking():
        print(f"A fresh Debian 13: {lacking}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.fresh:
        shutil.rmtree(options.root, ignore_errors=True)
    root = debian_root.make(options.root, RELEASE, PACKAGES)
    command = options.words
    if not options.as_is:
        debian_root.share_network(root)
        clone(root / TREE)
        command = ["make", *(options.words or ["test"])]
    started = time.monotonic()
    code, closing = run(root, command)
    seconds = time.monotonic() - started
    release = (root / "etc/debian_version").read_text().strip()
    print(f"Debian {release}, {shlex.join(command)}: exit code {code}, {seconds:.0f} s")
    if closing:
        print(closing)
    return code


if __name__ == "__main__":
    sys.exit(main())
