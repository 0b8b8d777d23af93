"""Rewrite regular expressions that are written for nginx, and so for PCRE, for RE2 and Python's `re`."""

from __future__ import annotations

import re

# PCRE without UCP: ASCII only. The content of each class, for use between brackets.
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t-\r ",
    "upper": "A-Z",
    "word": "0-9A-Z_a-z",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS = re.compile(r"\[:(\^?)(\w*):\]")

# Escapes that RE2 or re lacks: their replacements outside brackets, and within (None: none).
_ESCAPES: dict[str, tuple[str, str | None]] = {
    "h": (r"[\t ]", r"\t "),
    "H": (r"[^\t ]", None),
    "v": (r"[\n-\r]", r"\n-\r"),
    "N": (r"[^\n]", None),
    "e": (r"\x1b", r"\x1b"),
    # \K moves the reported start of the match, and nothing is reported here.
    "K": ("", None),
}
_SPECIAL = frozenset(r"\.+*?()|[]{}^$-&~")

_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_NAMED_REFERENCE = re.compile(r"\\[kg](?:<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)'|\{([A-Za-z_]\w*)\})", re.ASCII)
_NUMBERED_REFERENCE = re.compile(r"\\g(?:([1-9][0-9]?)|\{([1-9][0-9]?)\})")
_NAMED_GROUP = re.compile(r"\(\?(?:<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)')", re.ASCII)
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_QUANTIFIER = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_PROPERTY = re.compile(r"\\[pP](?:[A-Z]|\{\^?\w+\})", re.ASCII)
_QUOTED = re.compile(r"""\\([\\"'])""")


def nginx_unescaped(regex: str) -> str:
    r"""Return an expression as nginx's regex engine gets it from its configuration, where `\\d` is `\d`.

    No name of a tag or host has a backslash or a quote in it.
    """
    return _QUOTED.sub(r"\1", regex)


def translate(regex: str, end: str) -> str:
    """Return the expression with PCRE's own spellings replaced by those that RE2 and `re` share.

    `end` is the engine's escape for the very end of the text. Anything unknown here is left unchanged, for
    the engine to judge. Raises ValueError for a POSIX class that does not exist.
    """
    out: list[str] = []
    pos = 0
    while pos < len(regex):
        char = regex[pos]
        if char == "\\":
            text, pos = _escape(regex, pos, end)
        elif char == "[":
            text, pos = _brackets(regex, pos)
        elif char == "(":
            text, pos = _group(regex, pos)
        elif char == "{" and not _QUANTIFIER.match(regex, pos):
            # PCRE takes {,3} literally; re would read it as {0,3}.
            text, pos = r"\{", pos + 1
        else:
            text, pos = char, pos + 1
        out.append(text)
    return "".join(out)


def _escape(regex: str, pos: int, end: str) -> tuple[str, int]:
    """Return the replacement of the escape at `pos`, outside brackets, and where the escape ends."""
    if found := _NAMED_REFERENCE.match(regex, pos):
        return f"(?P={found[1] or found[2] or found[3]})", found.end()
    if found := _NUMBERED_REFERENCE.match(regex, pos):
        return rf"(?:\{found[1] or found[2]})", found.end()
    letter = regex[pos + 1 : pos + 2]
    if letter in ("z", "Z"):
        return end, pos + 2
    if letter in _ESCAPES:
        return _ESCAPES[letter][0], pos + 2
    return _literal_escape(regex, pos)


def _literal_escape(regex: str, pos: int) -> tuple[str, int]:
    r"""Return what stands for `\Q...\E`, `\x{...}` or any other escape, in brackets or out."""
    letter = regex[pos + 1 : pos + 2]
    if letter == "Q":
        stop = regex.find("\\E", pos)
        stop = len(regex) if stop < 0 else stop
        return _quote(regex[pos + 2 : stop]), stop + 2
    if letter == "E":
        return "", pos + 2
    if found := _PROPERTY.match(regex, pos):
        return found[0], found.end()
    if (found := _HEX.match(regex, pos)) and int(found[1], 16) <= 0x10FFFF:
        return _quote(chr(int(found[1], 16))), found.end()
    return regex[pos : pos + 2], pos + 2


def _quote(text: str) -> str:
    """Return an expression for exactly this text, in brackets or out."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def _brackets(regex: str, pos: int) -> tuple[str, int]:
    """Return the replacement of the bracket expression that opens at `pos`, and where the expression ends."""
    out = ["["]
    pos += 1
    if regex.startswith("^", pos):
        out.append("^")
        pos += 1
    first = pos
    while pos < len(regex):
        char = regex[pos]
        if char == "]" and pos > first:
            return "".join([*out, "]"]), pos + 1
        if found := _POSIX_CLASS.match(regex, pos):
            text, pos = _posix(found[2], negated=bool(found[1])), found.end()
        elif char == "\\":
            inside = _ESCAPES.get(regex[pos + 1 : pos + 2], ("", None))[1]
            text, pos = _literal_escape(regex, pos) if inside is None else (inside, pos + 2)
        else:
            text, pos = f"\\{char}" if char in "[]" else char, pos + 1
        out.append(text)
    return "".join(out), pos


def _posix(name: str, *, negated: bool) -> str:
    """Return the ranges of a POSIX class, or of all other characters if negated."""
    if name not in _POSIX:
        raise ValueError(f"no POSIX class is named {name!r}")
    if not negated:
        return _POSIX[name]
    inside = re.compile(f"[{_POSIX[name]}]")
    rest = "".join(rf"\x{code:02x}" for code in range(128) if not inside.match(chr(code)))
    return rest + "\x80-\U0010ffff"


def _group(regex: str, pos: int) -> tuple[str, int]:
    """Return the replacement of the opening of a group, or of a comment, and where it ends."""
    if found := _COMMENT.match(regex, pos):
        return "", found.end()
    if found := _NAMED_GROUP.match(regex, pos):
        return f"(?P<{found[1] or found[2]}>", found.end()
    return "(", pos + 1
