"""docs/faq.md quotes messages that there are: regproxy's own are in its code, the others are known here."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

from regproxy.policy.image_rules import Decision
from regproxy.registry.rate_limits import Lane
from regproxy.upstream.quotas import _refusal
from tests.support import ROOT

PAGE: Final = (ROOT / "docs" / "faq.md").read_text()

# Said by clients, by registries, or by the system, in their own words.
CLIENTS: Final = {
    "x509: certificate signed by unknown authority",
    "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "SSL certificate problem: unable to get local issuer certificate",
    "x509: certificate has expired or is not yet valid",
    "certificate verify failed",
    "TLS handshake failed: certificate verify failed: ...",
    "proxyconnect tcp: dial tcp: connection refused",
    "proxyconnect tcp: tls: first record does not look like a TLS handshake",
    "http: server gave HTTP response to HTTPS client",
    "no such host",
    "dial tcp: lookup ghcr.io: no such host",
    "context deadline exceeded",
    "Client.Timeout exceeded while awaiting headers",
    "TLS handshake timeout",
    "rewriting reference: invalid reference format",
    "short-name did not resolve to an alias",
    "received unexpected HTTP status: 503 Service Unavailable",
    "CONNECT tunnel failed, response 403",
    "pull access denied ..., repository does not exist or may require 'docker login'",
    "toomanyrequests",
    "You have reached your unauthenticated pull rate limit",
    "connection refused",
    "registry.example:443: Connection refused",
    "unauthorized: authentication required",
    "denied: requested access to the resource is denied",
    "failed to fetch oauth token",
    "failed to fetch anonymous token",
    "manifest unknown",
    "blob unknown",
    "unexpected EOF",
    "connection reset by peer",
    "filesystem layer verification failed for digest",
    "unexpected commit digest",
    "Digest did not match, expected",
    "no space left on device",
    "ErrImagePull, ImagePullBackOff",
    "Back-off pulling image",
    "Failed to pull image",
    "failed to resolve reference",
    "pulling from host proxy.example:3128 failed with status code [manifests 1.0]: 503 Service Unavailable",
    "Proxy Authentication Required",
    "Address already in use",
}
# Quoted with names of an example.
EXAMPLES: Final = {
    "ghcr.io/team/app:1.0 is denied (rule 'releases-only'...)": Decision("deny", rule="releases-only").text(
        "ghcr.io/team/app:1.0"
    ),
    "registry-1.docker.io has refused GETs of manifests of anonymous (429, too many requests): not asked"
    " until ...": _refusal("registry-1.docker.io", "anonymous", Lane.MANIFESTS, 0.0, 1.0),
    "is denied": Decision("deny").text(""),
    "is held back": Decision("hold").text(""),
}
# Parts of a text that are not the same each time: in the page, in calls of the log, in templates.
_OPEN: Final = re.compile(r"\.\.\.|%[-+.\d]*[a-z]|\{[a-z]+\}|\d+(?= s\b)")
_COMMAND: Final = re.compile(r"(sudo|docker|curl|regproxy|kubectl|podman|ctr|ss|openssl|SIGHUP)\b")
_SETTING: Final = re.compile(r"[A-Z_]{6,}|[\w-]+ = |HTTPS_PROXY|(request )|^\(|regproxy:$")


def headings() -> list[str]:
    """Return the headings that are messages."""
    return re.findall(r"^### (.+)$", PAGE, re.MULTILINE)


def spans() -> list[str]:
    """Return what is marked as code within the text, each in one line."""
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def quoted() -> list[str]:
    """Return what else is quoted: code of three words or more that is no command and no setting."""
    found = (span for span in spans() if not _COMMAND.match(span) and not _SETTING.search(span))
    return [span for span in found if len(span.split()) > 2]


def plain(text: str) -> str:
    """Return a text without what is filled in."""
    return " ".join(_OPEN.sub(" ", text).split())


@cache
def written() -> tuple[str, ...]:
    """Return all texts of regproxy's code, but for docstrings."""
    texts = set()
    for path in sorted((ROOT / "regproxy").rglob("*.py")):
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else "..." for each in node.values]
                texts.add(plain("".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                texts.add(plain(node.value))
    return tuple(texts)


def is_written(message: str) -> bool:
    """Return whether a text of the code has all parts of a message."""
    parts = [part for part in map(plain, message.split("...")) if part]
    return any(all(part in text for part in parts) for text in written())


def test_the_proxys_messages_are_in_its_code() -> None:
    own = {*headings(), *quoted()} - CLIENTS
    assert len(own) > 40
    assert sorted(message for message in own - set(EXAMPLES) if not is_written(message)) == []


def test_examples_are_what_it_says() -> None:
    for message, said in EXAMPLES.items():
        assert said.strip().startswith(message.partition("...")[0])


def test_it_notices_what_is_not() -> None:
    assert is_written("this proxy is no mirror of ...")
    assert not is_written("this proxy is the mirror of ...")


def test_the_others_are_in_the_page() -> None:
    assert sorted(CLIENTS - {*headings(), *spans()}) == []


def test_each_says_why_or_what_to_do() -> None:
    sections = re.split(r"^### (.+)$", re.sub(r"^## .*$", "", PAGE, flags=re.MULTILINE), flags=re.MULTILINE)[
        1:
    ]
    for title, below in zip(sections[::2], sections[1::2], strict=True):
        assert re.search(r"\*\*(Why|Do)\*\*", below), title
