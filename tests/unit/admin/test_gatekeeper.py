"""Who is let in, from where, and how guesses are slowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from regproxy.admin import proofs
from regproxy.admin.gatekeeper import OF_ADDRESS_MAX, Gatekeeper, check_form, check_same_origin
from regproxy.admin.operations import Operation
from regproxy.admin.replies import Problem
from regproxy.admin.tokens import MADE
from regproxy.admin.visitors import Login, Scope, Token, Visitor
from regproxy.http.messages import Request, parse_request

FAR = "192.0.2.1"
NEAR = "127.0.0.1"


class Known:
    """Tokens that a test sets."""

    def __init__(self, *tokens: Token) -> None:
        self.tokens = list(tokens)

    @property
    def all_local(self) -> bool:
        return all(token.local for token in self.tokens)

    async def current(self) -> list[Token]:
        return self.tokens


class Counts(Counter[str]):
    """Counts logins."""

    def admin_login(self, outcome: str) -> None:
        self[outcome] += 1


def write(*, local: bool = False) -> Token:
    return Token("write-" + "w" * 30, Scope.WRITE, local)


def read(*, local: bool = False) -> Token:
    return Token("read-" + "r" * 30, Scope.READ, local)


def operation(scope: Scope) -> Operation:
    rest: tuple[Any, ...] = ("op", "", "", None, None, None, 200, False, False, "", {})
    return Operation("GET", "/api/v1/op", scope, *rest)


def request(token: str = "", method: str = "GET", **fields: str) -> Request:
    host = fields.pop("Host", "proxy.example:3129")
    lines = [f"{method} /api/v1/op HTTP/1.1", f"Host: {host}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return parse_request("\r\n".join([*lines, "", ""]).encode())


def admitted(
    tokens: tuple[Token, ...], scope: Scope, peer: str, asked: Request, counts: Counts | None = None
) -> int | Scope:
    """Return the scope that a request is let in with, or the status that it gets."""
    known: Any = Known(*tokens)

    async def run() -> int | Scope:
        gatekeeper = Gatekeeper(known, counts if counts is not None else Counts())
        try:
            return (await gatekeeper.admit(operation(scope), asked, peer)).scope
        except Problem as problem:
            return problem.status

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("tokens", "scope", "peer", "token", "want"),
    [
        # Tokens that were made here are for this machine.
        ((write(local=True), read(local=True)), Scope.READ, NEAR, write(), Scope.WRITE),
        ((write(local=True), read(local=True)), Scope.READ, NEAR, read(), Scope.READ),
        ((write(local=True), read(local=True)), Scope.WRITE, NEAR, read(), 403),
        ((write(local=True), read(local=True)), Scope.READ, "::1", read(), Scope.READ),
        ((write(local=True), read(local=True)), Scope.READ, FAR, write(), 403),
        ((write(local=True), read(local=True)), Scope.OPEN, FAR, None, 403),
        ((write(local=True), read(local=True)), Scope.LOCAL, FAR, None, 403),
        # One of them is configured: that one is for every host.
        ((write(local=True), read()), Scope.READ, FAR, read(), Scope.READ),
        ((write(local=True), read()), Scope.READ, FAR, write(), 401),
        ((write(), read(local=True)), Scope.WRITE, FAR, write(), Scope.WRITE),
        ((write(), read(local=True)), Scope.READ, FAR, read(), 401),
        ((write(), read()), Scope.OPEN, FAR, None, Scope.OPEN),
        ((write(), read()), Scope.LOCAL, FAR, None, 401),
        ((write(), read()), Scope.LOCAL, FAR, read(), Scope.READ),
        # Without any.
        ((write(), read()), Scope.READ, NEAR, None, 401),
        ((write(), read()), Scope.LOCAL, NEAR, None, 401),
        ((), Scope.READ, NEAR, write(), 401),
        ((), Scope.READ, FAR, write(), 403),
    ],
)
def test_admit(
    tokens: tuple[Token, ...], scope: Scope, peer: str, token: Token | None, want: int | Scope
) -> None:
    asked = request(token.text if token is not None else "")
    assert admitted(tokens, scope, peer, asked) == want


@pytest.mark.parametrize(
    ("peer", "host", "want"),
    [
        (NEAR, "127.0.0.1:3129", Scope.OPEN),
        (NEAR, "LOCALHOST:3129", Scope.OPEN),
        ("::1", "[::1]:3129", Scope.OPEN),
        ("127.8.8.8", "127.8.8.8", Scope.OPEN),
        # A page of that name has led a browser here.
        (NEAR, "rebound.example:3129", 401),
        (NEAR, "127.0.0.1.rebound.example", 401),
        (NEAR, "", 401),
        ("10.0.0.1", "127.0.0.1:3129", 401),
        ("", "127.0.0.1:3129", 401),
    ],
)
def test_without_a_token_from_here(peer: str, host: str, want: int | Scope) -> None:
    assert admitted((write(), read()), Scope.LOCAL, peer, request(Host=host)) == want


def test_what_was_let_in_is_looked_at_again() -> None:
    """By an answer that goes on."""
    known: Any = Known(write())
    gatekeeper = Gatekeeper(known, Counts(), clock=lambda: 1000.0)

    def is_known(visitor: Visitor) -> bool:
        return asyncio.run(gatekeeper.knows(visitor))

    shown = Visitor(Scope.WRITE, FAR, token=write())
    assert is_known(shown)
    assert is_known(replace(shown, login=Login(write(), 1001, "")))
    assert not is_known(replace(shown, login=Login(write(), 1000, "")))
    assert not is_known(replace(shown, token=read()))
    assert not is_known(Visitor(Scope.WRITE, FAR))


def test_logins_are_counted() -> None:
    counts = Counts()
    admitted((write(),), Scope.READ, NEAR, request(write().text), counts)
    admitted((write(),), Scope.READ, NEAR, request("wrong"), counts)
    assert counts == {"accepted": 1, "refused": 1}


def test_guesses_are_slowed() -> None:
    """From one address; who has shown a right token before never waits."""
    known: Any = Known(write())
    counts = Counts()

    async def run() -> None:
        gatekeeper = Gatekeeper(known, counts)

        async def guess(text: str, peer: str = FAR) -> int:
            try:
                await gatekeeper.admit(operation(Scope.READ), request(text), peer)
            except Problem as problem:
                return problem.status
            return 200

        assert await guess(write().text) == 200
        for number in range(8):
            await asyncio.wait_for(asyncio.gather(guess(f"wrong-{number}")), 10)
        guesses = [asyncio.create_task(guess(f"more-{number}")) for number in range(OF_ADDRESS_MAX + 3)]
        await asyncio.sleep(0)  # they have all begun
        assert await guess(write().text) == 200
        assert await guess("wrong", "192.0.2.2") == 401
        statuses = await asyncio.gather(*guesses)
        assert statuses.count(429) == 3
        assert statuses.count(401) == OF_ADDRESS_MAX

    asyncio.run(run())
    assert counts["slowed"] == 3


def test_who_is_on_this_machine_shuts_nobody_out() -> None:
    """All its loopback addresses are one; a token that was made here never waits, one that was not does."""
    made = Token("m" * MADE, Scope.WRITE, local=True)
    known: Any = Known(made, read(local=True))

    async def run() -> None:
        gatekeeper = Gatekeeper(known, Counts())

        async def show(text: str, peer: str = NEAR) -> int:
            try:
                await gatekeeper.admit(operation(Scope.READ), request(text), peer)
            except Problem as problem:
                return problem.status
            return 200

        for number in range(4):
            assert await show("wrong", f"127.0.0.{number + 2}") == 401
        guesses = [asyncio.create_task(show("wrong", f"127.0.1.{n}")) for n in range(OF_ADDRESS_MAX)]
        await asyncio.sleep(0)  # they have all begun
        assert await show("wrong", "127.0.2.1") == await show("wrong", "::1") == 429
        assert await show(read(local=True).text) == 429
        assert await show(made.text) == 200
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)

    asyncio.run(run())


WHAT = "127.0.0.1:3129", "127.0.0.1:50000", "n" * 43


def proven(
    tokens: tuple[Token, ...], known: Token, peer: str = NEAR, counts: Counts | None = None, **fields: str
) -> int | str:
    """Return the proof that a client with the token `known` gets, or the status."""
    tokens_: Any = Known(*tokens)
    shown = proofs.proof_of_client(known, *WHAT)

    async def run() -> int | str:
        gatekeeper = Gatekeeper(tokens_, counts if counts is not None else Counts())
        try:
            return await gatekeeper.prove(shown, WHAT, request(method="POST", **fields), peer)
        except Problem as problem:
            return problem.status

    return asyncio.run(run())


def test_a_proof_for_a_proof() -> None:
    """By the token that the client knows, and to nobody who knows none."""
    both, counts = (write(), read()), Counts()
    for token in both:
        assert proven(both, token, counts=counts) == proofs.proof_of_proxy(token, *WHAT)
    assert proven(both, Token("x" * 36, Scope.WRITE, local=False), counts=counts) == 401
    assert counts == {"accepted": 2, "refused": 1}


def test_who_gets_no_proof() -> None:
    """Those who could not use the token either: other hosts, and pages of other sites."""
    mixed = (write(local=True), read())
    assert proven((write(local=True),), write(local=True), FAR) == 403
    assert proven(mixed, write(local=True), FAR) == 401
    assert proven(mixed, read(), FAR) == proofs.proof_of_proxy(read(), *WHAT)
    assert proven(mixed, read(), Origin="http://evil.example") == 403
    assert proven(mixed, read(), Sec_Fetch_Site="cross-site") == 403


def test_wrong_proofs_are_slowed_as_guesses_are() -> None:
    """Who has been right before, by a proof or the token itself, does not wait."""
    known: Any = Known(write())
    counts = Counts()

    async def run() -> None:
        gatekeeper = Gatekeeper(known, counts)

        async def prove(token: Token) -> int:
            shown = proofs.proof_of_client(token, *WHAT)
            try:
                await gatekeeper.prove(shown, WHAT, request(method="POST"), FAR)
            except Problem as problem:
                return problem.status
            return 200

        wrong = Token("x" * 36, Scope.WRITE, local=False)
        assert await prove(write()) == 200
        for _ in range(6):
            assert await prove(wrong) == 401
        guesses = [asyncio.create_task(prove(wrong)) for _ in range(OF_ADDRESS_MAX + 2)]
        await asyncio.sleep(0)  # they have all begun
        assert not any(guess.done() for guess in guesses[:OF_ADDRESS_MAX])
        assert await prove(write()) == 200
        assert (
            await gatekeeper.admit(operation(Scope.READ), request(write().text), FAR)
        ).scope is Scope.WRITE
        statuses = await asyncio.gather(*guesses)
        assert statuses.count(429) == 2

    asyncio.run(run())
    assert (counts["accepted"], counts["slowed"]) == (1, 2)


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ({"Origin": "http://proxy.example:3129"}, True),
        ({"Origin": "https://PROXY.example:3129"}, True),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://proxy.example"}, False),
        ({"Origin": "http://proxy.example:3129.evil"}, False),
        ({"Origin": "http://proxy.example:3129", "Sec_Fetch_Site": "cross-site"}, False),
        ({"Origin": "http://evil", "Sec_Fetch_Site": "same-origin"}, False),
        ({"Sec_Fetch_Site": "none"}, False),
    ],
)
def test_same_origin(fields: dict[str, str], good: bool) -> None:
    asked = request(method="POST", **fields)
    if good:
        check_same_origin(asked)
    else:
        with pytest.raises(Problem):
            check_same_origin(asked)


def test_forms() -> None:
    visitor = Visitor(Scope.WRITE, NEAR, Login(write(), 0, "secret"))
    check_form(visitor, request(method="POST"), "secret")
    check_form(visitor, request(method="POST", X_CSRF_Token="secret"), "")
    check_form(visitor, request(), "")
    check_form(Visitor(Scope.WRITE, NEAR), request(method="POST"), "")
    for shown in ("", "secre", "secret2", "\xff"):
        with pytest.raises(Problem):
            check_form(visitor, request(method="POST"), shown)
