"""Settings of one word, and paths."""

from __future__ import annotations

import pytest

from regproxy.config.values.words import (
    parse_directory,
    parse_level,
    parse_log,
    parse_log_style,
    parse_optional_path,
)


def test_words_of_single_settings() -> None:
    assert parse_directory("/ca/") == "/ca" and parse_directory("/") == "/"
    assert parse_optional_path("") is None and parse_optional_path("/a b") == "/a b"
    assert [parse_log(text) for text in ("-", "OFF", "/var/log/a.json")] == ["-", "off", "/var/log/a.json"]
    assert [parse_level(text) for text in ("INFO", "warn", "warning")] == ["info", "warning", "warning"]


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_directory, "a\0b"),
        (parse_optional_path, "\0"),
        (parse_log, ""),
        (parse_level, "trace"),
        (parse_log_style, "xml"),
    ],
)
def test_bad_words(parse: object, text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)  # type: ignore[operator]
