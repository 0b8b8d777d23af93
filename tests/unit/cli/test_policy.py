"""`regproxy policy explain`: which rule decides, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regproxy.cli.main import app
from tests.support.signatures import Signer

D = "sha256:" + "d" * 64
RULES = f"""
[key.team]
pem = '''{Signer.new().pem}'''

[[rule]]
name = "bad"
digest = "{D}"
action = "deny"
message = "It is broken"

[[rule]]
name = "ours"
registry = "docker.io"
principal = "ci"
signed = "team"
action = "allow"

[[rule]]
name = "soon"
tag = "latest"
action = "deny"
dry_run = true

[[rule]]
name = "end"
repository = "library/*"
action = "deny"
"""
CASES: list[tuple[list[str], list[str]]] = [
    (["ghcr.io/x/y:1"], ["depends on the digest", "--digest"]),
    (["ghcr.io/x/y:1", "--digest", D], ["deny: by rule 'bad'", "It is broken"]),
    ([f"ghcr.io/x/y@{D}"], ["deny: by rule 'bad'"]),
    (["nginx@sha256:" + "e" * 64, "--as", "ci"], ["depends on whether it is signed by team"]),
    (["nginx@sha256:" + "e" * 64], ["ours: not for this, another principal", "deny: by rule 'end'"]),
    (
        ["ghcr.io/x/y:latest", "--digest", "sha256:" + "e" * 64],
        ["allow: no rule is for it", "in dry run, rule 'soon' would deny"],
    ),
    (["nginx", "--push"], ["allow: no rule is for it"]),
]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return str(path)


@pytest.mark.parametrize("words, wanted", CASES, ids=[" ".join(words)[:50] for words, _ in CASES])
def test_explain(words: list[str], wanted: list[str], config: str) -> None:
    shown = CliRunner().invoke(app, ["policy", "explain", *words, "--config", config])
    assert shown.exit_code == 0, shown.output
    for text in wanted:
        assert text in shown.output


def test_json(config: str) -> None:
    command = ["policy", "explain", "nginx", "--as", "ci", "--digest", D, "--json", "--config", config]
    told = json.loads(CliRunner().invoke(app, command).output)
    assert told["decision"]["rule"] == "bad"
    assert told["steps"][0]["state"] == "decides"
    assert (told["image"], told["principal"]) == ("registry-1.docker.io/library/nginx:latest", "ci")


@pytest.mark.parametrize("words", [["a b"], [D], ["nginx", "--digest", "sha256:1"]])
def test_mistakes(words: list[str], config: str) -> None:
    shown = CliRunner().invoke(app, ["policy", "explain", *words, "--config", config])
    assert shown.exit_code == 2


def test_rules_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nactoin = "deny"\n')
    for command in (["policy", "explain", "nginx"], ["check-config"]):
        shown = CliRunner().invoke(app, [*command, "--config", str(path)])
        assert shown.exit_code == 2
        assert "did you mean action?" in shown.output
