"""`regproxy cache verify`: check every blob against its digest."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from regproxy.cli.cache.opening import Cache, opened
from regproxy.cli.cache.progress import Quiet, view
from regproxy.cli.common.exit_codes import FAILED, INTERRUPTED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import show_json
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.cache.verify import Result

JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=0, max=64, help="Number of threads; 0 for one per core.")
]


def verify(config: ConfigOption = None, jobs: JobsOption = 0, as_json: JsonOption = False) -> None:
    """Check every blob against its digest. Damaged blobs are moved to quarantine/ in the cache directory.

    Exit code 0: all blobs are intact. 1: some are damaged. 2: the cache can't be used.
    """
    from regproxy.cache.verify import Verifier

    jobs = jobs or len(os.sched_getaffinity(0))
    with opened(config) as cache:
        totals = cache.index.totals()
        shown = Quiet() if as_json else view(totals.bytes)
        shown.say(f"{cache.root}: {totals.objects} blobs, {size_text(totals.bytes)} by the index")
        verifier = Verifier(
            cache.root, cache.index, jobs, on_problem=shown.problem, on_progress=shown.progress
        )
        began = time.monotonic()
        try:
            with shown:
                result = verifier.run()
        except KeyboardInterrupt:
            shown.say("interrupted: the blobs that were not checked yet are unchanged")
            raise typer.Exit(INTERRUPTED) from None
        shown.say(_summary(cache, result, time.monotonic() - began))
    if as_json:
        show_json(to_builtins(result))
    raise typer.Exit(FAILED if result.wrong else 0)


def _summary(cache: Cache, result: Result, seconds: float) -> str:
    text = f"checked {result.checked} blobs, {size_text(result.bytes)}, in {seconds:.1f} s: "
    text += f"{result.wrong} wrong" if result.wrong else "all are right"
    if result.quarantined:
        text += f"; {result.quarantined} moved to {cache.root / 'quarantine'}, to be looked at or deleted"
    if result.entered:
        text += f"; {result.entered} entered into the new index"
    return text
