"""`regproxy offline`: what it says of a proxy's answers, and without a proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from regproxy.cache import layout
from regproxy.cli import offline
from regproxy.cli.common.admin_client import Refused
from regproxy.cli.main import app

ON, OFF = {"on": True, "by": "switch"}, {"on": False, "by": None}
SETTING = {"on": True, "by": "setting"}


def run(root: Path, *words: str, **env: str) -> Result:
    """Run it beside a port at which nobody listens."""
    env = {"REGPROXY_CACHE_DIR": str(root), "REGPROXY_ADMIN_LISTEN": "127.0.0.1:1", **env}
    return CliRunner().invoke(app, ["offline", *words], env=env)


class Answers:
    """In the place of AdminClient."""

    def __init__(self, answer: dict[str, Any], error: Exception | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answer = answer
        self._error = error

    def __call__(self, config: object, root: Path, *, writes: bool) -> Answers:
        self.asked.append((writes,))
        return self

    def ask(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if self._error is not None:
            raise self._error
        return {"offline": self._answer} if asked[0] == "GET" else self._answer


@pytest.mark.parametrize(
    ("word", "answer", "asked", "said"),
    [
        ("on", ON, ("POST", "offline", {"on": True}), "No registry is asked. What is in the cache is served"),
        ("on", SETTING, ("POST", "offline", {"on": True}), "`regproxy offline off` can't change that"),
        ("off", OFF, ("POST", "offline", {"on": False}), "Not offline: registries are asked.\n"),
        ("status", ON, ("GET", "status"), "until `regproxy offline off`"),
        ("status", SETTING, ("GET", "status"), "REGPROXY_OFFLINE=true"),
        ("status", OFF, ("GET", "status"), "Not offline"),
    ],
)
def test_what_it_asks_and_says(
    word: str,
    answer: dict[str, Any],
    asked: tuple[Any, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The read-only token is enough for `status`."""
    port = Answers(answer)
    monkeypatch.setattr(offline, "AdminClient", port)
    shown = run(tmp_path, word)
    assert shown.exit_code == 0 and said in shown.stdout
    assert json.loads(run(tmp_path, word, "--json").stdout) == answer
    assert port.asked == [(word != "status",), asked] * 2


def test_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "AdminClient", Answers(ON, Refused("409: REGPROXY_OFFLINE is true")))
    shown = run(tmp_path, "off")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == "regproxy: 409: REGPROXY_OFFLINE is true\n"


@pytest.mark.parametrize("word", ["on", "off", "status"])
def test_no_proxy(word: str, tmp_path: Path) -> None:
    """It says whether the next start will be offline, and how to change that."""
    for path in (layout.admin_token(tmp_path), layout.admin_read_token(tmp_path)):
        path.parent.mkdir(exist_ok=True)
        path.write_text("t" * 32)
    shown = run(tmp_path, word)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "no proxy answers at 127.0.0.1:1 " in shown.stderr
    assert "with REGPROXY_OFFLINE=true it is offline from the start" in shown.stderr
    assert "with it will be offline" in run(tmp_path, word, REGPROXY_OFFLINE="true").stderr
    layout.offline(tmp_path).touch()
    assert "switched offline and will start offline" in run(tmp_path, word).stderr
