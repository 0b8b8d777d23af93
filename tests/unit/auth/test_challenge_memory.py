"""What is kept of registries' challenges, and the scopes that follow from them."""

from __future__ import annotations

import pytest

from regproxy.auth.challenge_memory import SCOPES_KEPT, ChallengeMemory
from regproxy.config.sources.assembly import load
from regproxy.http.messages import EOF, Response
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins
from regproxy.registry.targets import parse_target
from regproxy.registry.token_protocol import Realm

REG = Origin("https", "reg.example.com", 443)
HERE, THERE = parse_target("/v2/a/b/manifests/1"), parse_target("/v2/c/manifests/1")
BASIC = 'Basic realm="r"'


def asked(*challenges: str) -> Response:
    return Response(
        401, b"", 1, tuple((b"www-authenticate", text.encode()) for text in challenges), EOF, True
    )


def bearer(path: str, scope: str = "") -> str:
    return f'Bearer realm="https://auth.example.com/{path}",service="svc",scope="{scope}"'


@pytest.fixture
def memory() -> ChallengeMemory:
    return ChallengeMemory(Origins(load({})))


def test_a_repository_may_have_a_realm_of_its_own(memory: ChallengeMemory) -> None:
    assert memory.asks_by(REG, "a/b") is None
    memory.learn(REG, HERE, asked(bearer("one")))
    memory.learn(REG, THERE, asked(bearer("two")))
    found = [memory.asks_by(REG, repository) for repository in ("a/b", "c", "elsewhere", "")]
    assert [each.target for each in found if isinstance(each, Realm)] == ["/one", "/two", "/two", "/two"]
    assert memory.asks_by(Origin("https", "reg.example.com", 5000), "a/b") is None


def test_tokens_are_preferred_to_passwords(memory: ChallengeMemory) -> None:
    memory.learn(REG, HERE, asked(BASIC))
    assert memory.asks_by(REG, "a/b") == "basic"
    memory.learn(REG, HERE, asked(BASIC, bearer("t")))
    assert isinstance(memory.asks_by(REG, "a/b"), Realm)


def test_what_cannot_be_followed_is_not_kept(memory: ChallengeMemory) -> None:
    broken = asked('Bearer realm="ftp://auth.example.com/t"')
    memory.learn(REG, HERE, broken)
    assert memory.asks_by(REG, "a/b") is None
    assert memory.realm_of(broken) is memory.realm_of(asked(BASIC)) is None
    memory.learn(REG, HERE, asked('Bearer realm="ftp://auth.example.com/t"', BASIC))
    assert memory.asks_by(REG, "a/b") == "basic"


def test_the_realm_of_a_challenge(memory: ChallengeMemory) -> None:
    realm = memory.realm_of(asked(bearer("t")))
    assert realm is not None
    assert (realm.origin, realm.target) == (Origin("https", "auth.example.com", 443), "/t")


# What the challenge says: the scopes of a login's token, of a narrow one, and of an anonymous one.
SCOPES = [
    ("", ("repository:a/b:pull",), ("repository:a/b:pull",)),
    ("repository:a/b:pull,push", ("repository:a/b:pull",), ("repository:a/b:pull",)),
    ("repository:key/a/b:pull", ("repository:key/a/b:pull",), ("repository:key/a/b:pull",)),
    ("aws", ("repository:a/b:pull",), ("aws",)),
    ("aws repository:x:pull", ("repository:x:pull",), ("repository:x:pull", "aws")),
]


@pytest.mark.parametrize("said, ours, anonymous", SCOPES)
def test_scopes(
    memory: ChallengeMemory, said: str, ours: tuple[str, ...], anonymous: tuple[str, ...]
) -> None:
    memory.learn(REG, HERE, asked(bearer("t", said)))
    assert memory.scopes(REG, HERE) == ours
    assert memory.scopes(REG, HERE, anonymous=True) == anonymous
    assert memory.scopes(REG, HERE, narrow=True) == ("repository:a/b:pull",)
    assert memory.scopes(REG, parse_target("/v2/")) == ()


def test_memory_is_bounded(memory: ChallengeMemory) -> None:
    for number in range(SCOPES_KEPT + 100):
        memory.learn(REG, parse_target(f"/v2/r{number}/manifests/1"), asked(bearer("t", f"x:{number}")))
    assert len(memory._asks) <= SCOPES_KEPT and len(memory._scopes) <= SCOPES_KEPT
