"""Patterns for repositories, and for texts that have no components."""

from __future__ import annotations

import pytest

from regproxy.config.values.globs import compile_glob, matches_any, matches_any_text, parse_glob

# (pattern, names that match, names that do not)
PATTERNS = [
    ("team/app", ["team/app"], ["team/app2", "team/ap", "a/team/app", "team/app/b", "Team/app"]),
    ("team/*", ["team/app", "team/"], ["team", "team/app/sub", "other/app"]),
    ("team/**", ["team/app", "team/app/sub"], ["team", "teams/app"]),
    ("*", ["app"], ["team/app"]),
    ("**", ["app", "team/app/sub", ""], []),
    ("*/app-?", ["team/app-1"], ["team/app-10", "team/app-/", "app-1"]),
    ("a.b", ["a.b"], ["axb"]),
    ("**/app", ["team/app", "a/b/app"], ["app", "team/app/x"]),
]


@pytest.mark.parametrize(("pattern", "names", "others"), PATTERNS)
def test_matches(pattern: str, names: list[str], others: list[str]) -> None:
    assert parse_glob(pattern) == pattern
    matches = compile_glob(pattern)
    assert [name for name in names if not matches(name)] == []
    assert [name for name in others if matches(name)] == []
    assert all(matches_any(["nothing", pattern], name) for name in names)
    assert not any(matches_any([], name) for name in names)


@pytest.mark.parametrize("text", ["", "/team", "team/", "te am", "a***", "a[b]", "a\nb", "(a)", "a:1"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="a repository such as team/app"):
        parse_glob(text)


# (pattern, texts that match, texts that do not)
TEXTS = [
    ("v1.*", ["v1.", "v1.2", "v1.2\n"], ["v1", "v12", "av1.2"]),
    ("*", ["", "spiffe://example/ns/a/b"], []),
    ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "a.examplexcom"]),
    ("application/*+json", ["application/vnd.oci.image.index.v1+json"], ["application/json"]),
    ("v?", ["v1", "v/"], ["v", "v10"]),
]


@pytest.mark.parametrize(("pattern", "texts", "others"), TEXTS)
def test_matches_text(pattern: str, texts: list[str], others: list[str]) -> None:
    assert [text for text in texts if not matches_any_text(["nothing", pattern], text)] == []
    assert [text for text in others if matches_any_text(["nothing", pattern], text)] == []
    assert not any(matches_any_text([], text) for text in texts)
