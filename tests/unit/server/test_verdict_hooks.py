"""Verdicts by a service, and in a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regproxy.config.image_rules import Rule
from regproxy.server.verdict_hooks import HookError, VerdictHook, parse_verdicts
from tests.support.origin import Answer, Origin

D = "sha256:" + "d" * 64
SAID = json.dumps({"verdict": "allow", "reason": "fine"}).encode()

# (answer, met, pending)
ANSWERS: list[tuple[str, Answer, bool, bool]] = [
    ("allow", Answer(SAID), True, False),
    ("chunked", Answer(SAID, framing="chunked"), True, False),
    ("to the end", Answer(SAID, framing="eof"), True, False),
    ("deny", Answer(b'{"verdict": "deny", "reason": 5}'), False, False),
    ("pending", Answer(b'{"verdict": "pending"}'), False, True),
    ("another word", Answer(b'{"verdict": "maybe"}'), False, True),
    ("no object", Answer(b"[]"), False, True),
    ("two verdicts", Answer(b'{"verdict": "deny", "verdict": "allow"}'), False, True),
    ("no JSON", Answer(b"\xff"), False, True),
    ("an error", Answer(SAID, 503), False, True),
    ("too large", Answer(b" " * 70_000), False, True),
    ("too large in chunks", Answer(b" " * 70_000, framing="chunked"), False, True),
    ("too large to the end", Answer(b" " * 70_000, framing="eof"), False, True),
    ("cut", Answer(SAID, cut_at=5), False, True),
    ("no head", Answer(cut_at=-1), False, True),
    (
        "a wrong chunk",
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        False,
        True,
    ),
]


def ask(url: str, times: int = 1, **values: Any) -> list[tuple[bool, bool, str]]:
    async def run() -> list[tuple[bool, bool, str]]:
        hook = VerdictHook(Rule("r", "deny", verdict=url, **values))
        found = await asyncio.gather(*(hook.ask("reg.test", 443, "team/app", D) for _ in range(times)))
        found.append(await hook.ask("reg.test", 443, "team/app", D))
        return [(each.met, each.pending, each.reason) for each in found]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "answer, met, pending", [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_answers(answer: Answer, met: bool, pending: bool, start_origin: Callable[..., Origin]) -> None:
    origin = start_origin("hook.test", tls=False)
    origin.on("/v", answer)
    url = f"http://{origin.address[0]}:{origin.port}/v?x=1"
    found = ask(url, times=3)
    assert {each[:2] for each in found} == {(met, pending)}
    # Once for all who ask, also where it fails.
    assert origin.count("POST") == 1
    (seen,) = origin.requests
    assert seen.target == "/v?x=1"
    assert json.loads(seen.body) == {"registry": "reg.test", "repository": "team/app", "digest": D}
    if not met:
        assert ask(url, on_error="allow")[0][0] is (pending and "pending" not in str(answer.body))


def test_nobody_answers(start_origin: Callable[..., Origin]) -> None:
    origin = start_origin("hook.test", tls=False)
    url = f"http://{origin.address[0]}:{origin.port}/v"
    origin.close()
    assert ask(url)[0] == (False, True, "no verdict on it can be had")
    assert ask(url, on_error="allow")[0][0]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "verdicts"
    assert ask(str(file))[0][:2] == (False, True)
    file.write_text(f"{D} deny too old # and more\n* allow\n")
    assert ask(str(file))[0] == (False, False, "the verdict is deny: too old")
    file.write_text("* allow")
    assert ask(str(file))[0][0]
    file.write_text("\n# nothing\n")
    assert ask(str(file))[0][:2] == (False, True)
    file.write_text(f"{D} perhaps\n")
    assert ask(str(file), on_error="allow")[0][0]


def test_a_line_that_is_wrong() -> None:
    with pytest.raises(HookError, match="f, line 2"):
        parse_verdicts("* allow\nsha256:00\n", "f")
