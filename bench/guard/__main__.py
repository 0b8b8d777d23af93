"""Count the instructions of the hot paths and compare them with those in the tree.

python -m bench.guard            exit status 1: a path takes more than 5 % more
python -m bench.guard --update   store what was counted
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from bench.errors import BenchError
from bench.guard import stored
from bench.guard.counting import missing
from bench.guard.paths import count_all
from bench.guard.stored import Build


def main(update: bool) -> int:
    build = Build.here()
    known = stored.load().get(build.name)
    reason = missing()
    if reason is None and known is None and not update:
        reason = f"no counts are stored for {build.name}: make bench-guard-update makes them"
    if reason is not None:
        print(f"SKIPPED: instructions of the hot paths are not compared: {reason}")
        return 1 if update else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are stopped on the way out
    try:
        with tempfile.TemporaryDirectory(prefix="regproxy-guard-") as place:
            found = count_all(Path(place))
    except BenchError as error:
        print(f"FAILED: nothing could be counted: {error}")
        return 1
    if update:
        stored.save(build, found)
        print(f"stored in {stored.FILE}; the commit says why they have changed")
        return 0
    assert known is not None
    if known["build"] != build.details:
        print(f"counted with {known['build']}\nhere is      {build.details}")
    verdicts = list(stored.compare(build, known, found))
    print(*verdicts, sep="\n")
    return 1 if any(verdict.failed for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main("--update" in sys.argv[1:]))
