"""Let requests pass by the rules for images: the Guard that stands behind the one of access.

Where a rule has to know what a tag is, the tag is resolved here, as for a request without rules, and what was
judged is what is served, whatever the tag becomes meanwhile. What is let pass is remembered for some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from regproxy.core.errors import NotUnderstood, OnHold, Refused, UpstreamError, log_level
from regproxy.core.lru import Bounded
from regproxy.fill.fill import CacheRequest
from regproxy.http.origin import Origin
from regproxy.policy.image_requests import place_of
from regproxy.policy.image_rules import Decision, Facts, ImageRules, Need, Outcome, with_parents
from regproxy.policy.plans import Action
from regproxy.policy.principals import Principal
from regproxy.policy.sharing import namespace_of
from regproxy.registry.targets import Kind, Target
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.image_families import Families
from regproxy.server.responder import Responder
from regproxy.server.routes import Judged, Route
from regproxy.server.signature_checks import SignatureChecks
from regproxy.server.tag_requests import FoundTag, TagRequests
from regproxy.server.verdict_hooks import VerdictHook
from regproxy.tags.history import TagHistory

log = logging.getLogger(__name__)

PASSED_SECONDS: Final = 10.0  # for which it is remembered that a request passes
PASSED_MAX: Final = 8192
_NARROWED_MAX: Final = 4096
_DEPTH_MAX: Final = 3  # a layer, its manifest, its index
_NEEDS_MAX: Final = 2048  # things that are found out for one decision: rules ask for two each, at most

_Key = tuple[str, int, str, str, Principal]


class _Case(Struct):
    """A request that is being judged. `judged`: the decisions on manifests that it belongs to."""

    exchange: Exchange
    origin: Origin
    route: Route
    rules: ImageRules
    found: dict[Need, Outcome] = field(default_factory=dict)
    judged: dict[str, Decision] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int, str]:
        return self.origin.host, self.origin.port, self.route.shared.repository


class ImagePolicy:
    """The Guard of images. One for each worker."""

    def __init__(
        self, services: Services, responder: Responder, tags: TagRequests, signatures: SignatureChecks
    ) -> None:
        self._services = services
        self._responder = responder
        self._tags = tags
        self._signatures = signatures
        self._rules = ImageRules(services.config.image_rules.rules)
        self._hooks: Mapping[str, VerdictHook] = {
            rule.name: VerdictHook(rule) for rule in self._rules.rules if rule.verdict
        }
        self._history = TagHistory(services.index, self._rules.age)
        self._families = Families(services.index, services.store)
        self._passed: Bounded[_Key, Judged] = Bounded(PASSED_MAX)
        self._narrowed: Bounded[tuple[object, ...], ImageRules] = Bounded(_NARROWED_MAX)

    # --- called for each request -------------------------------------------------------------------------

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether the rules let a request pass, as far as this is known without waiting."""
        memo = route.judged
        # The way of a hit: no call of a Python function, but for tags.
        if memo is not None and memo[0] is exchange.principal and memo[1] == origin.host:  # noqa: SIM102
            if memo[2] == origin.port and exchange.started < memo[3]:
                if not memo[4] or self._is_still(origin, route, memo[4]):
                    if memo[5]:
                        exchange.rule, exchange.decision, exchange.warning = memo[5], memo[6], memo[7]
                        memo[8][0] += 1
                        memo[9][0] += 1
                    return True
                return False
        return self._passes(exchange, origin, route)

    def _passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Do the same for what the route itself does not remember."""
        key = _key(exchange, origin, route)
        memo = self._passed.get(key)
        if memo is not None and exchange.started < memo.until:
            route.judged = memo
            if memo.digest and not self._is_still(origin, route, memo.digest):
                return False
            self._note(exchange, memo)
            return True
        facts = self._facts(exchange, origin, route)
        if facts is None:
            return True
        rules = self._rules_for(facts)
        if rules.traces and not facts.push:
            return False
        decision = rules.decide(facts)
        if not isinstance(decision, Decision) or decision.refuses:
            return False
        self._let_pass(exchange, origin, route, decision)
        return True

    def _is_still(self, origin: Origin, route: Route, digest: str) -> bool:
        """Return whether a tag has a fresh copy of this digest, which is what will be served."""
        lifetime = route.lifetime
        if lifetime is None or route.asks_presence:
            return False
        copy = self._services.lookup.copy(origin, route.target, route, lifetime)
        return copy is not None and copy.fresh and copy.row.digest == digest

    def prepared(self, exchange: Exchange, origin: Origin, route: Route) -> Route:
        """Return the route that the guards ahead are asked for.

        They may pass on a request with fields of the client's own as it came. So these are left out where the
        rules have more to find out.
        """
        if not route.shared.own or self.passes(exchange, origin, route):
            return route
        return self._shared_route(route)

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Find out whether the rules let a request pass. Raises Refused, OnHold, UpstreamError."""
        facts = self._facts(exchange, origin, route)
        if facts is None:
            return route
        exchange.kind = self._kind_of(route)
        case = _Case(exchange, origin, route, self._rules_for(facts))
        if facts.push or not facts.tag:
            decision = await self._judge(case, facts, facts.digest or "")
            self._settle(case, facts, decision)
            self._let_pass(exchange, origin, route, decision)
            return route
        return await self._admit_tag(case, facts)

    # --- tags --------------------------------------------------------------------------------------------

    async def _admit_tag(self, case: _Case, facts: Facts) -> Route | None:
        """Judge what a tag is, and answer with that."""
        exchange, origin, route = case.exchange, case.origin, case.route
        decision = case.rules.decide(facts)
        if isinstance(decision, Decision) and (decision.refuses or not case.rules.traces):
            self._settle(case, facts, decision)
            self._let_pass(exchange, origin, route, decision)
            return route
        if route.lifetime is None:
            # The client's own query or fields are left out: what is judged is what all others get.
            case.route = route = self._shared_route(route)
            exchange.kind = self._kind_of(route)
        try:
            found = await self._find(case)
        except NotUnderstood:
            # What can't be stored can't be judged. It is passed on where that matters not.
            if not isinstance(decision, Decision):
                raise
            self._say(exchange, decision)
            return route
        if found is None:
            return route
        if not found.digest:
            exchange.route = route
            self._tags.serve(exchange, route, found)  # no content: the registry's own refusal
            return None
        exchange.route = route
        facts = self._with_tag(case, facts, found)
        decision = await self._judge(case, facts, found.digest)
        self._settle(case, facts, decision)
        digest = decision.digest or found.digest
        if case.rules.traces:
            self._families.served(case.place, digest, route.target.reference)
        if decision.digest:
            self._say(exchange, decision)
            return self._by_digest(route, digest)
        self._let_pass(exchange, origin, route, decision, digest)
        self._tags.serve(exchange, route, found)
        return None

    def _with_tag(self, case: _Case, facts: Facts, found: FoundTag) -> Facts:
        """Return the facts with what a tag is, and what it was."""
        now, route, history = time.time(), case.route, None
        if case.rules.age:
            name = (route.target.reference, found.digest, found.media_type)
            history = self._history.note(case.place, *name, route.accept, now)
        return replace(
            facts, digest=found.digest, media_type=found.media_type, history=history or (), now=now
        )

    async def _find(self, case: _Case) -> FoundTag | None:
        """Return what a tag is, found as for a request without rules; None: nobody can be asked."""
        services, exchange, origin, route = self._services, case.exchange, case.origin, case.route
        target, request, lifetime = route.target, route.request, route.lifetime
        assert lifetime is not None
        copy = services.lookup.copy(origin, target, route, lifetime)
        age = copy.age if copy is not None and copy.current else math.inf
        stretch = services.stretch(origin.name)
        path = request.path
        plan = services.policy.plan(request.method, target, copy is not None, age, path, stretch)
        if copy is not None and plan.action in (Action.SERVE, Action.STALE, Action.RENEW):
            blob, media_type = copy.held
            if plan.action is Action.RENEW:
                self._tags.renew(route, replace(self._wanted(case), own_account=True), copy)
            cache = "HIT" if plan.action is Action.SERVE else "STALE"
            return FoundTag(blob.digest, media_type, cache, blob)
        if plan.action is Action.FETCH:
            return await self._tags.find(exchange, route, self._wanted(case), copy)
        if plan.action is not Action.HEAD:
            return None
        found = await self._tags.find_by_head(exchange, route, self._wanted(case), copy)
        answer = found.answer
        if found.digest or answer is None or answer.status != 200:
            return found
        # Some registries name the digest only with the content.
        return await self._tags.find(exchange, route, self._wanted(case), None)

    def _shared_route(self, route: Route) -> Route:
        is_tag = route.target.kind is Kind.TAG
        lifetime = self._services.policy.lifetime(route.target.reference) if is_tag else None
        return replace(
            route,
            shared=replace(route.shared, own=""),
            lifetime=lifetime,
            passed=None,
            let_in=None,
            judged=None,
        )

    def _by_digest(self, route: Route, digest: str) -> Route:
        """Return the route to a digest, for a request for a tag."""
        target = Target(Kind.MANIFEST, route.target.repository, digest)
        path = f"/v2/{target.repository}/manifests/{digest}{namespace_of(route.shared.request)}"
        shared = replace(route.shared, request=replace(route.shared.request, target=path), own="")
        return replace(
            route,
            request=replace(route.request, target=path),
            target=target,
            shared=shared,
            by_digest=self._services.policy.plan(route.request.method, target, True, None),
            lifetime=None,
            asks_presence=False,
            passed=None,
            let_in=None,
            judged=None,
        )

    # --- judging -----------------------------------------------------------------------------------------

    async def _judge(self, case: _Case, facts: Facts, digest: str, depth: int = 0) -> Decision:
        """Return the decision on content, by what it is and what it belongs to."""
        own = await self._decide(case, facts)
        if facts.push or not case.rules.traces or not digest:
            return own
        decision = own
        if own.basis != "digest" and depth < _DEPTH_MAX:
            decision = await self._with_family(case, facts, digest, own, depth)
        if not facts.blob:
            self._families.judged(case.place, digest, passes=not decision.refuses)
        return decision

    async def _with_family(
        self, case: _Case, facts: Facts, digest: str, own: Decision, depth: int
    ) -> Decision:
        """Return the decision on content, by the tags that it was served under, and by what names it."""
        family = self._families.of(case.place, digest)
        if not facts.tag and own.refuses:
            for tag in family.tags:
                under = await self._decide(case, replace(facts, tag=tag, blob=False, served=True))
                if not under.refuses:
                    return with_parents(own, (), (under,))
        parents: list[Decision] = []
        for parent in family.parents:
            if parent not in case.judged:
                case.judged[parent] = await self._judge(case, self._parent(facts, parent), parent, depth + 1)
            parents.append(case.judged[parent])
            if not parents[-1].refuses:
                break
        return with_parents(own, parents, ())

    def _parent(self, facts: Facts, digest: str) -> Facts:
        media_type = self._services.index.media_type(digest)
        return replace(facts, tag="", digest=digest, media_type=media_type, blob=False, history=None)

    async def _decide(self, case: _Case, facts: Facts) -> Decision:
        """Return the decision of the rules, after all was found out that it depends on."""
        facts = replace(facts, found=case.found)
        for _ in range(_NEEDS_MAX):
            found = case.rules.decide(facts)
            if isinstance(found, Decision):
                return found
            for need in found:
                if need.kind == "media type":
                    facts = replace(facts, media_type=await self._media_type(case, need.digest))
                else:
                    case.found[need] = await self._find_out(case, need)
        raise Refused("the rules for images come to no end")

    async def _find_out(self, case: _Case, need: Need) -> Outcome:
        origin, route = case.origin, case.route
        if need.kind == "verdict":
            hook = self._hooks[need.names[0]]
            return await hook.ask(origin.host, origin.port, route.target.repository, need.digest)
        where = (origin, route.shared.repository, need.digest, need.names)
        try:
            verdict = await self._signatures.check(*where, route.shared.request)
        except UpstreamError as error:
            text = "%s: whether %s is signed can't be told: %s"
            log.log(log_level(error), text, origin.host, need.digest, error)
            return Outcome(False, "whether it is signed can't be told now", pending=True)
        return Outcome(verdict.signed, verdict.reason)

    async def _media_type(self, case: _Case, digest: str) -> str:
        """Return the media type of a manifest by digest, which is fetched for that; "": it can't be told."""
        known, route = self._services.index.media_type(digest), case.route
        if known is not None or digest != route.target.reference:
            return known or ""
        # Its bytes need not state what it is: then its registry has told it.
        held = self._services.lookup.content(case.origin, route.target, route)
        if held is not None or self._services.policy.offline:
            return held[1] if held is not None else ""
        wanted, fills = self._wanted(case), self._services.fills
        while True:
            fill, mine = fills.join(wanted)
            try:
                blob = await asyncio.shield(fill.done)
                break
            except UpstreamError as error:
                if mine or not fill.failed_for_other_client(wanted, error):
                    raise
        return self._services.lookup.brought(case.origin, route.target, route, blob, fill.media_type)[1]

    def _wanted(self, case: _Case) -> CacheRequest:
        route, rights = case.route, self._services.rights
        return rights.wanted(case.exchange, case.origin, route, own_account=route.asks_proxy)

    # --- what is known without waiting -------------------------------------------------------------------

    def _facts(self, exchange: Exchange, origin: Origin, route: Route) -> Facts | None:
        """Return what a request says; None: no rule can be for it."""
        target, rules = route.target, self._rules
        place = place_of(route.request.method, target, route.request.path)
        if place is None or not (rules.pushes if place.push else rules.pulls):
            return None
        by_digest = target.kind in (Kind.BLOB, Kind.MANIFEST) and not place.odd
        media_type = None
        if target.kind is Kind.MANIFEST:
            media_type = self._services.index.media_type(target.reference)
        return Facts(
            *(origin.host, origin.port, place.repository),
            tag=target.reference if target.kind is Kind.TAG else "",
            digest=target.reference if by_digest else ("" if place.odd or place.push else None),
            media_type=media_type,
            principal=exchange.principal.name,
            push=place.push,
            blob=target.kind in (Kind.BLOB, Kind.BLOB_MUTABLE),
            odd=place.odd,
        )

    def _rules_for(self, facts: Facts) -> ImageRules:
        """Return the rules that may be for a registry, repository and client."""
        key = (facts.host, facts.port, facts.repository, facts.principal, facts.push)
        rules = self._narrowed.get(key)
        if rules is None:
            rules = self._rules.narrowed(facts)
            self._narrowed.put(key, rules)
        return rules

    def _kind_of(self, route: Route) -> str:
        if route.by_digest is not None:
            return route.by_digest.kind
        return route.lifetime.name if route.lifetime is not None else route.target.kind.value

    # --- what becomes of a request -----------------------------------------------------------------------

    def _settle(self, case: _Case, facts: Facts, decision: Decision) -> None:
        """Raise Refused or OnHold where the decision is against it."""
        if not decision.refuses:
            return
        self._say(case.exchange, decision)
        case.exchange.cache = ""
        text = decision.text(facts.image)
        self._responder.note_refusal(case.exchange, "rule", decision.told_rule, text)
        if decision.action == "hold":
            raise OnHold(text, decision.retry_after)
        raise Refused(text)

    def _let_pass(
        self, exchange: Exchange, origin: Origin, route: Route, decision: Decision, digest: str = ""
    ) -> None:
        """Note that a request passes, and remember it; `digest`: as long as that is what the tag is."""
        rule, word = decision.told_rule, decision.word
        counters = (self._counter(rule, word), self._counter(*decision.told_beside))
        warning = _warning(decision)
        until = exchange.started + PASSED_SECONDS
        where = (exchange.principal, origin.host, origin.port)
        memo = Judged(*where, until, digest, rule, word, warning, *counters)
        route.judged = memo
        self._passed.put(_key(exchange, origin, route), memo)
        self._note(exchange, memo)

    def _note(self, exchange: Exchange, memo: Judged) -> None:
        if memo.rule:
            exchange.rule, exchange.decision, exchange.warning = memo.rule, memo.decision, memo.warning
            memo.counter[0] += 1
            memo.beside[0] += 1

    def _counter(self, rule: str, word: str) -> list[int]:
        """Return what counts a rule's decisions, or something that nobody reads."""
        return self._services.metrics.rule_count(rule, word) if rule else [0]

    def _say(self, exchange: Exchange, decision: Decision) -> None:
        """Note a decision that is not remembered."""
        exchange.rule, exchange.decision = decision.told_rule, decision.word
        exchange.warning = _warning(decision)
        self._counter(decision.told_rule, decision.word)[0] += 1
        self._counter(*decision.told_beside)[0] += 1


def _key(exchange: Exchange, origin: Origin, route: Route) -> _Key:
    return origin.host, origin.port, route.request.method, route.path, exchange.principal


def _warning(decision: Decision) -> bytes:
    """Return the value of a Warning field (OCI distribution spec, "Warnings"; RFC 7234 5.5), b"" for none."""
    text = decision.warning
    if not text:
        return b""
    quoted = text.encode("ascii", "replace").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'299 - "' + quoted + b'"'
