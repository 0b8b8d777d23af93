"""What the rules for images decide, from values alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from regproxy.config.image_rules import Rule
from regproxy.policy.image_rules import (
    ALLOWED,
    Decision,
    Facts,
    ImageRules,
    Need,
    Outcome,
    duration,
    with_parents,
)
from regproxy.policy.tag_history import Seen

DAY = 86_400.0
NOW = 100 * DAY
D, E = "sha256:" + "d" * 64, "sha256:" + "e" * 64
TAG = Facts("ghcr.io", 443, "team/app", tag="1.0", principal="ci", now=NOW)
KNOWN = replace(TAG, digest=D, media_type="application/vnd.oci.image.index.v1+json", history=())
BY_DIGEST = replace(KNOWN, tag="")
BLOB = replace(BY_DIGEST, blob=True, media_type=None)
ODD = Facts("ghcr.io", repository=None, digest="", odd=True)
PUSH = replace(TAG, push=True, digest="")


def rule(action: str = "deny", **values: Any) -> Rule:
    return Rule(**{"name": "r", "action": action, **values})


def decide(facts: Facts, *rules: Rule) -> Decision | tuple[Need, ...]:
    return ImageRules(rules).decide(facts)


def action(facts: Facts, *rules: Rule) -> str:
    """The action of a decision; of what has to be found out, its kind."""
    found = decide(facts, *rules)
    return found.action if isinstance(found, Decision) else f"needs {found[0].kind}"


SELECTED: list[tuple[dict[str, Any], Facts, str]] = [
    ({}, TAG, "deny"),
    ({}, BLOB, "deny"),
    ({}, PUSH, "allow"),
    ({"on": ("push",)}, PUSH, "deny"),
    ({"on": ("push",)}, TAG, "allow"),
    ({"registry": ("ghcr.io",)}, TAG, "deny"),
    ({"registry": ("*.io",)}, TAG, "deny"),
    ({"registry": ("gcr.io",)}, TAG, "allow"),
    ({"registry": ("ghcr.io:443",)}, TAG, "deny"),
    ({"registry": ("ghcr.io:444",)}, TAG, "allow"),
    ({"registry": ("registry-1.docker.io",)}, replace(TAG, host="index.docker.io"), "deny"),
    ({"repository": ("team/*",)}, TAG, "deny"),
    ({"repository": ("*",)}, TAG, "allow"),
    ({"tag": ("1.*", "x")}, TAG, "deny"),
    ({"tag": ("1",)}, TAG, "allow"),
    ({"tag": ("*",)}, BY_DIGEST, "allow"),
    ({"principal": ("c*",)}, TAG, "deny"),
    ({"principal": ("*",)}, replace(TAG, principal=""), "allow"),
    ({"principal": ("anonymous",)}, replace(TAG, principal=""), "deny"),
    ({"principal": ("anonymous",)}, TAG, "allow"),
    ({"digest": (D,)}, TAG, "needs digest"),
    ({"digest": (D,)}, KNOWN, "deny"),
    ({"digest": (D,)}, BLOB, "deny"),
    ({"digest": (E,)}, BY_DIGEST, "allow"),
    ({"digest": (D,), "tag": ("2",)}, TAG, "allow"),
    ({"media_type": ("application/*index*",)}, TAG, "needs media type"),
    ({"media_type": ("application/*index*",)}, KNOWN, "deny"),
    ({"media_type": ("application/*list*",)}, KNOWN, "allow"),
    ({"media_type": ("*",)}, BLOB, "allow"),
    # What can't be told is not let through, and not refused by what is for others.
    ({"repository": ("x",)}, ODD, "deny"),
    ({"digest": (D,)}, ODD, "deny"),
    ({"registry": ("gcr.io",)}, ODD, "allow"),
    ({"action": "allow", "repository": ("x",)}, ODD, "allow"),
]


@pytest.mark.parametrize("values, facts, want", SELECTED, ids=str)
def test_what_a_rule_is_for(values: dict[str, Any], facts: Facts, want: str) -> None:
    assert action(facts, rule(**values)) == want


def test_the_first_one_decides() -> None:
    allow, deny = rule("allow", repository=("team/*",)), rule(name="end")
    assert action(TAG, allow, deny) == "allow"
    assert action(replace(TAG, repository="x"), allow, deny) == "deny"
    assert action(ODD, allow, deny) == "deny"
    assert decide(TAG) == ALLOWED


SIGNED = Need("signed", D, ("k",))
VERDICT = Need("verdict", D, ("r",))
YES, NO, LATER = Outcome(True, ""), Outcome(False, "why"), Outcome(False, "soon", pending=True)
OLD = (Seen(E, NOW - 9 * DAY, NOW - 2 * DAY, False), Seen(D, NOW - DAY, NOW, False))
ASKED: list[tuple[str, dict[str, Any], Facts, str]] = [
    ("digest_only", {"digest_only": True}, TAG, "deny"),
    ("digest_only by digest", {"digest_only": True}, BY_DIGEST, "allow"),
    ("signed tag", {"signed": ("k",)}, TAG, "needs digest"),
    ("signed unknown", {"signed": ("k",)}, KNOWN, "needs signed"),
    ("signed", {"signed": ("k",)}, replace(KNOWN, found={SIGNED: YES}), "allow"),
    ("unsigned", {"signed": ("k",)}, replace(KNOWN, found={SIGNED: NO}), "deny"),
    ("not known yet", {"signed": ("k",)}, replace(KNOWN, found={SIGNED: LATER}), "hold"),
    ("warn of that", {"signed": ("k",), "action": "warn"}, replace(KNOWN, found={SIGNED: LATER}), "warn"),
    ("hold", {"signed": ("k",), "action": "hold"}, replace(KNOWN, found={SIGNED: NO}), "hold"),
    ("only allows", {"signed": ("k",), "action": "allow"}, replace(KNOWN, found={SIGNED: NO}), "allow"),
    ("of a blob", {"signed": ("k",)}, BLOB, "allow"),
    ("of what can't be told", {"signed": ("k",)}, ODD, "deny"),
    ("verdict", {"verdict": "f"}, KNOWN, "needs verdict"),
    ("verdict allow", {"verdict": "f"}, replace(KNOWN, found={VERDICT: YES}), "allow"),
    ("both", {"verdict": "f", "signed": ("k",)}, replace(KNOWN, found={SIGNED: YES}), "needs verdict"),
    ("age", {"min_tag_age": DAY}, TAG, "needs digest"),
    ("age by digest", {"min_tag_age": DAY}, BY_DIGEST, "allow"),
    ("no history", {"min_tag_age": DAY}, replace(KNOWN, history=None), "needs history"),
    ("too young", {"min_tag_age": 10 * DAY}, replace(KNOWN, history=OLD), "deny"),
    ("served lately", {"min_tag_age": 10 * DAY}, replace(KNOWN, history=None, served=True), "allow"),
]


@pytest.mark.parametrize("values, facts, want", [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_what_a_rule_asks_for(values: dict[str, Any], facts: Facts, want: str) -> None:
    assert action(facts, rule(**values)) == want


def test_the_digest_before_is_judged() -> None:
    """What is served in the place of a young digest needs a signature of its own."""
    aged = rule(min_tag_age=3 * DAY, signed=("k",))
    facts = replace(KNOWN, history=OLD)
    assert decide(facts, aged) == (Need("signed", E, ("k",)),)
    found = decide(replace(facts, found={Need("signed", E, ("k",)): YES}), aged)
    assert isinstance(found, Decision)
    assert (found.action, found.digest) == ("allow", E)


def test_a_rule_that_only_allows_leaves_the_rest_to_others() -> None:
    facts = replace(KNOWN, found={SIGNED: NO}, history=OLD)
    rules = rule("allow", signed=("k",)), rule(name="age", min_tag_age=10 * DAY)
    assert action(facts, *rules) == "deny"
    assert action(replace(facts, found={SIGNED: YES}), *rules) == "allow"


def test_dry_runs() -> None:
    dry, warn = rule("deny", dry_run=True, name="dry"), rule("warn", name="w", message="m")
    found = decide(TAG, dry)
    assert isinstance(found, Decision)
    assert (found.action, found.word, found.told_rule) == ("allow", "would-deny", "dry")
    assert "would be denied" in found.warning
    found = decide(TAG, dry, warn)
    assert isinstance(found, Decision)
    assert (found.word, found.told_rule, found.warning) == ("warn", "w", "m (rule 'w')")
    found = decide(TAG, dry, rule("deny", name="d"))
    assert isinstance(found, Decision)
    assert (found.word, found.told_rule, found.warning) == ("deny", "d", "")
    assert action(TAG, rule("allow", dry_run=True), rule("deny", name="d")) == "deny"


def test_texts() -> None:
    found = decide(TAG, rule(message="Ask us"))
    assert isinstance(found, Decision)
    assert found.text(TAG.image) == "Ask us (ghcr.io/team/app:1.0, rule 'r')"
    found = decide(replace(KNOWN, found={SIGNED: NO}), rule(signed=("k",)))
    assert isinstance(found, Decision)
    assert found.text(KNOWN.image) == "ghcr.io/team/app:1.0 is denied (rule 'r': why)"
    found = decide(TAG, rule("hold"))
    assert isinstance(found, Decision)
    assert found.text(BY_DIGEST.image).startswith(f"ghcr.io/team/app@{D} is held back (rule 'r'")
    assert found.retry_after == 30


def made(action: str, basis: str) -> Decision:
    return Decision(action, "r", basis=basis)  # type: ignore[arg-type]


YES_IT_IS, NO_IT_IS = made("allow", "rule"), made("deny", "rule")
FAMILIES: list[tuple[Decision, list[Decision], list[Decision], str]] = [
    (made("allow", "none"), [], [], "allow"),
    (made("allow", "none"), [NO_IT_IS], [], "deny"),
    (made("allow", "none"), [NO_IT_IS, YES_IT_IS], [], "allow"),
    (made("allow", "signed"), [NO_IT_IS], [], "allow"),
    (made("allow", "digest"), [NO_IT_IS], [], "allow"),
    (made("deny", "digest"), [YES_IT_IS], [YES_IT_IS], "deny"),
    (made("deny", "rule"), [YES_IT_IS], [], "allow"),
    (made("deny", "rule"), [], [YES_IT_IS], "allow"),
    (made("deny", "asked"), [YES_IT_IS], [], "allow"),
    (made("deny", "asked"), [NO_IT_IS], [], "deny"),
]


@pytest.mark.parametrize("own, parents, tags, want", FAMILIES)
def test_what_belongs_to_others(
    own: Decision, parents: list[Decision], tags: list[Decision], want: str
) -> None:
    assert with_parents(own, parents, tags).action == want


def test_narrowed() -> None:
    here, there = rule(repository=("team/*",), tag=("x",)), rule(repository=("y",), signed=("k",), name="t")
    rules = ImageRules([here, there])
    assert rules.narrowed(TAG).rules == (here,)
    assert rules.narrowed(ODD).rules == (here, there)
    assert rules.narrowed(replace(TAG, push=True)).rules == ()
    assert rules.traces
    assert not ImageRules([rule(digest_only=True)]).traces


def test_explanations() -> None:
    rules = ImageRules(
        [rule(name="a", tag=("x",)), rule(name="b", dry_run=True), rule(name="c", signed=("k",))]
    )
    found = rules.explain(TAG)
    assert [(step.rule, step.state) for step in found.steps] == [
        ("a", "not for this"),
        ("b", "dry run"),
        ("c", "needs"),
    ]
    assert found.decision is None
    assert found.needs == (Need("digest"),)
    told = rules.explain(replace(KNOWN, found={SIGNED: NO}))
    assert told.decision is not None
    assert (told.decision.rule, told.decision.action, told.steps[-1].reason) == ("c", "deny", "why")


@pytest.mark.parametrize(
    "seconds, want", [(3 * DAY, "3 days"), (3600, "1 hour"), (90, "2 minutes"), (1, "1 second")]
)
def test_duration(seconds: float, want: str) -> None:
    assert duration(seconds) == want
