"""Decide by the [[rule]] tables what becomes of a request for an image: values in, a decision out.

The rules are looked at in their order, and the first one that is for the request decides. A rule that asks
for something (a signature, say) lets through what has that, and does its action to what has not; with
`allow` as its action it leaves the latter to the rules behind it. A rule in dry run decides nothing.

What a decision depends on may have to be found out first, such as the digest of a tag. Then decide() returns
what it is, and is called again with more Facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct, field

from regproxy.config.hosts import DOCKER_HUB_NAMES, DOCKER_HUB_REGISTRY
from regproxy.config.image_rules import ANONYMOUS_WORD, Rule, RuleAction
from regproxy.config.values.globs import matches_any, matches_any_text
from regproxy.policy.tag_history import Seen, old_enough_at, settled

HOLD_SECONDS: Final = 30  # after which a client is told to ask again
_FOR_THIS: Final = "it is for this"
_ODD: Final = "what is asked for can't be told from the request"

NeedKind = Literal["digest", "media type", "history", "signed", "verdict"]
# Why a decision is as it is: no rule, a rule's action, what it asks for, a signature, a digest that it names.
Basis = Literal["none", "rule", "asked", "signed", "digest"]


class Need(Struct, frozen=True):
    """Something that has to be found out. `digest`: of what; `names`: the keys, or the hook."""

    kind: NeedKind
    digest: str = ""
    names: tuple[str, ...] = ()


class Outcome(Struct, frozen=True):
    """Whether content has what a rule asks for. `pending`: that is not known yet, and may be soon.

    `named`: it was said of this digest, and not of what nothing is known of.
    """

    met: bool
    reason: str
    pending: bool = False
    named: bool = False


class Facts(Struct, frozen=True):
    """What is known of a request.

    `repository` None: it can't be told. `tag` "": not asked for by tag. `digest`, `media_type`, `history`
    None: not known yet. `odd`: the request names content in a way in which it can't be judged. `blob`: no
    manifest. `served`: it was served under this tag lately. `found`: what has been found out. `now`: epoch.
    """

    host: str
    port: int = 443
    repository: str | None = None
    tag: str = ""
    digest: str | None = None
    media_type: str | None = None
    principal: str = ""
    push: bool = False
    blob: bool = False
    odd: bool = False
    served: bool = False
    history: tuple[Seen, ...] | None = None
    found: Mapping[Need, Outcome] = field(default_factory=dict)
    now: float = 0.0

    @property
    def image(self) -> str:
        """The image's name, for people."""
        host = self.host if self.port == 443 else f"{self.host}:{self.port}"
        name = f"{host}/{self.repository}" if self.repository else host
        if self.tag:
            return f"{name}:{self.tag}"
        return f"{name}@{self.digest}" if self.digest else name


class Decision(Struct, frozen=True):
    """What becomes of a request. `rule`: which one decided, "" for none; `reason`: why; `message`: its own.

    `digest`: to be served in the place of what the tag is now. `dry`: what the first rule in dry run would
    have done otherwise. `retry_after`: seconds, with `hold`.
    """

    action: RuleAction
    rule: str = ""
    reason: str = ""
    message: str = ""
    basis: Basis = "none"
    digest: str = ""
    dry: Decision | None = None
    retry_after: int = 0

    @property
    def refuses(self) -> bool:
        return self.action in ("deny", "hold")

    @property
    def word(self) -> str:
        """What was done, for log and metrics; `would-deny` and the like where only a dry run says so."""
        return f"would-{self.dry.action}" if self.dry is not None and self._says_nothing else self.action

    @property
    def told_rule(self) -> str:
        """The rule that `word` is about."""
        return self.dry.rule if self.dry is not None and self._says_nothing else self.rule

    @property
    def told_beside(self) -> tuple[str, str]:
        """The rule in dry run that `word` is not about, and what it would have done; ("", "") for none."""
        if self.dry is None or self._says_nothing:
            return "", ""
        return self.dry.rule, f"would-{self.dry.action}"

    @property
    def _says_nothing(self) -> bool:
        return self.action == "allow"

    def text(self, image: str) -> str:
        """Return what a client is told when it is refused."""
        verb = "held back" if self.action == "hold" else "denied"
        said = f"{self.message} ({image}, " if self.message else f"{image} is {verb} ("
        why = "" if self.reason == _FOR_THIS else f": {self.reason}"
        return f"{said}rule {self.rule!r}{why})"

    @property
    def warning(self) -> str:
        """What a client is warned of, the same for all requests that the rule is for; "" if nothing."""
        if self.action == "warn":
            return f"{self.message or 'the image policy advises against this image'} (rule {self.rule!r})"
        if self.dry is not None and not self.refuses:
            done = {"deny": "denied", "hold": "held back", "warn": "warned of"}[self.dry.action]
            text = self.dry.message or "the image policy is being tried out"
            return f"{text} (rule {self.dry.rule!r}: this would be {done})"
        return ""


ALLOWED: Final = Decision("allow", reason="no rule is for this")


class Step(Struct, frozen=True):
    """What one rule has to say of a request. `state`: why it does not decide, or that it does."""

    rule: str
    state: Literal["not for this", "needs", "next", "dry run", "decides"]
    reason: str
    needs: tuple[Need, ...] = ()
    decision: Decision | None = None


class Explanation(Struct, frozen=True):
    """Why a request gets what it gets: the rules that were looked at, and the decision.

    `decision` None: it depends on `needs`, which would have to be found out.
    """

    image: str
    principal: str
    steps: tuple[Step, ...]
    decision: Decision | None
    needs: tuple[Need, ...] = ()


class ImageRules:
    """The rules of one configuration.

    `pulls`, `pushes`: there are rules for them. `traces`: what a manifest belongs to matters. `age`: the
    highest that a rule wants of a tag's digest, in seconds; 0: none does.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: Final = tuple(rules)
        pulls = [rule for rule in self.rules if "pull" in rule.on]
        self.pulls: Final = bool(pulls)
        self.pushes: Final = any("push" in rule.on for rule in self.rules)
        self.traces: Final = any(
            rule.tag or rule.digest or rule.media_type or rule.signed or rule.verdict for rule in pulls
        )
        self.age: Final = max((rule.min_tag_age for rule in pulls), default=0.0)
        self.by_name: Final = {rule.name: rule for rule in self.rules}

    def decide(self, facts: Facts) -> Decision | tuple[Need, ...]:
        """Return the decision, or what has to be found out first."""
        dry: Decision | None = None
        for rule in self.rules:
            step = _examine(rule, facts)
            if step.state == "needs":
                return step.needs
            if step.state == "dry run":
                dry = dry or step.decision
            elif step.decision is not None:
                return _with(step.decision, dry)
        return _with(ALLOWED, dry)

    def narrowed(self, facts: Facts) -> ImageRules:
        """Return the rules that may be for requests to this registry and repository, of this principal."""
        return ImageRules(rule for rule in self.rules if not _is_elsewhere(rule, facts))

    def explain(self, facts: Facts) -> Explanation:
        """Say what each rule has to say, up to the one that decides."""
        steps: list[Step] = []
        for rule in self.rules:
            steps.append(_examine(rule, facts))
            if steps[-1].state in ("needs", "decides"):
                break
        found = self.decide(facts)
        who = facts.principal or ANONYMOUS_WORD
        if isinstance(found, Decision):
            return Explanation(facts.image, who, tuple(steps), found)
        return Explanation(facts.image, who, tuple(steps), None, found)


def _with(decision: Decision, dry: Decision | None) -> Decision:
    if dry is None:
        return decision
    return Decision(
        *(decision.action, decision.rule, decision.reason, decision.message, decision.basis),
        digest=decision.digest,
        dry=dry,
        retry_after=decision.retry_after,
    )


# --- one rule --------------------------------------------------------------------------------------------


def _examine(rule: Rule, facts: Facts) -> Step:
    """Return what a rule has to say."""
    other = _is_for_other(rule, facts)
    if isinstance(other, Need):
        return Step(rule.name, "needs", f"it depends on the {other.kind}", (other,))
    if other:
        return Step(rule.name, "not for this", other)
    judged = _judge(rule, facts)
    if isinstance(judged, Need):
        return Step(rule.name, "needs", f"it depends on the {judged.kind}", (judged,))
    if judged is None:
        return Step(rule.name, "next", "it only allows what has all that it asks for")
    if not rule.dry_run:
        return Step(rule.name, "decides", judged.reason, decision=judged)
    if judged.action == "allow":
        return Step(rule.name, "next", "in dry run: it would allow this")
    return Step(rule.name, "dry run", judged.reason, decision=judged)


def _is_elsewhere(rule: Rule, facts: Facts) -> str:
    """Return why a rule is for no request like this, by where and by whom it is made; "" if it may be."""
    if ("push" if facts.push else "pull") not in rule.on:
        return f"it is for {' and '.join(rule.on)}"
    if rule.registry and not _is_among(rule.registry, facts.host, facts.port):
        return "another registry"
    if rule.principal and not _is_whom(rule.principal, facts.principal):
        return "another principal"
    if rule.repository and facts.repository is not None:
        return "" if matches_any(rule.repository, facts.repository) else "another repository"
    return ""


def _is_for_other(rule: Rule, facts: Facts) -> str | Need:
    """Return why a rule is not for a request, "" if it is."""
    elsewhere = _is_elsewhere(rule, facts)
    if elsewhere:
        return elsewhere
    unsure = "what can't be told is not allowed by it" if rule.action == "allow" else ""
    if facts.odd:
        unknown = facts.repository is None and rule.repository
        return unsure if unknown or rule.tag or rule.digest or rule.media_type else ""
    if rule.tag and not (facts.tag and matches_any_text(rule.tag, facts.tag)):
        return "another tag" if facts.tag else "it is for tags"
    return _is_other_content(rule, facts)


def _is_other_content(rule: Rule, facts: Facts) -> str | Need:
    if rule.digest:
        if facts.digest is None:
            return Need("digest")
        if facts.digest not in rule.digest:
            return "another digest"
    if rule.media_type:
        if facts.blob:
            return "it is for manifests"
        if facts.media_type is None:
            return Need("media type", facts.digest or "")
        if not matches_any_text(rule.media_type, facts.media_type):
            return "another media type"
    return ""


def _judge(rule: Rule, facts: Facts) -> Decision | Need | None:
    """Return what a rule decides of a request that it is for; None: it leaves it to the rules behind it."""
    if not rule.asks:
        return _decision(rule, rule.action, _FOR_THIS, "digest" if rule.digest else "rule")
    if facts.blob:
        return _decision(rule, "allow", "blobs go with their manifests", "asked")
    digest, judged = facts.digest or "", facts.digest
    if facts.odd:
        return _refusal(rule, Outcome(False, _ODD))
    if rule.digest_only and facts.tag and not facts.served:
        return _refusal(rule, Outcome(False, "only requests by digest are served"))
    if rule.min_tag_age and facts.tag and not facts.served:
        aged = _aged(rule, facts)
        if isinstance(aged, Need):
            return aged
        if isinstance(aged, Outcome):
            return _refusal(rule, aged)
        digest = aged
    elif (rule.signed or rule.verdict) and judged is None:
        return Need("digest")
    for need in _asked_of(rule, digest):
        outcome = facts.found.get(need)
        if outcome is None:
            return need
        if not outcome.met:
            return _refusal(rule, outcome)
    basis: Basis = "signed" if rule.signed else "asked"
    return _decision(rule, "allow", _granted(rule, facts, digest), basis, digest if digest != judged else "")


def _asked_of(rule: Rule, digest: str) -> Iterable[Need]:
    if rule.signed:
        yield Need("signed", digest, rule.signed)
    if rule.verdict:
        yield Need("verdict", digest, (rule.name,))


def _aged(rule: Rule, facts: Facts) -> str | Need | Outcome:
    """Return the digest that has been the tag's for long enough, or that there is none."""
    if facts.digest is None:
        return Need("digest")
    if facts.history is None:
        return Need("history", facts.digest)
    found = settled(
        facts.history,
        facts.digest,
        age=rule.min_tag_age,
        now=facts.now,
        first_sight=rule.first_sight,
        at_once=rule.at_once,
    )
    if found:
        return found
    left = max(0.0, old_enough_at(facts.history, facts.digest, rule.min_tag_age) - facts.now)
    wanted = duration(rule.min_tag_age)
    return Outcome(False, f"it has to be seen under its tag for {wanted}, {duration(left)} of it are left")


def _granted(rule: Rule, facts: Facts, digest: str) -> str:
    if digest != (facts.digest or ""):
        return f"{digest} is the newest that has been the tag's for {duration(rule.min_tag_age)}"
    return "it has what the rule asks for"


def _refusal(rule: Rule, outcome: Outcome) -> Decision | None:
    if rule.action == "allow":
        return None
    held = outcome.pending and rule.action == "deny"
    basis: Basis = "digest" if outcome.named else "asked"
    return _decision(rule, "hold" if held else rule.action, outcome.reason, basis)


def _decision(rule: Rule, action: RuleAction, reason: str, basis: Basis, digest: str = "") -> Decision:
    retry = HOLD_SECONDS if action == "hold" else 0
    return Decision(action, rule.name, reason, rule.message, basis, digest, retry_after=retry)


# --- a request that belongs to others --------------------------------------------------------------------


def with_parents(own: Decision, parents: Sequence[Decision], tags: Sequence[Decision]) -> Decision:
    """Return the decision on content by digest that belongs to something else.

    `parents`: on the indexes and manifests that are known to name it; `tags`: on the tags that it was served
    under. What belongs to an allowed image is allowed, and what belongs to denied ones alone is denied, but
    where a rule names the digest itself, or the content has a signature of its own.
    """
    if own.basis == "digest":
        return own
    granted = next((each for each in (*tags, *parents) if not each.refuses), None)
    if own.refuses:
        return granted or own
    if parents and granted is None and own.basis != "signed":
        return parents[0]
    return own


# --- words -----------------------------------------------------------------------------------------------


def _is_among(patterns: Iterable[str], host: str, port: int) -> bool:
    name = DOCKER_HUB_REGISTRY if host in DOCKER_HUB_NAMES else host
    return any(matches_any_text((each,), f"{name}:{port}" if ":" in each else name) for each in patterns)


def _is_whom(patterns: Iterable[str], principal: str) -> bool:
    if not principal:
        return ANONYMOUS_WORD in patterns
    return matches_any_text(patterns, principal)


def duration(seconds: float) -> str:
    """Return a time in words, such as "3 days" or "5 hours"."""
    unit, name = next(
        ((unit, name) for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")) if seconds >= unit),
        (1, "second"),
    )
    count = int(seconds / unit + 0.5)
    return f"{count} {name}{'s' if count != 1 else ''}"
