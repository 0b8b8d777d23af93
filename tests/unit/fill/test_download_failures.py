"""Failures in one word, as another process reads them."""

from __future__ import annotations

import pytest

from regproxy.core.errors import (
    Busy,
    CircuitOpen,
    ConnectFailed,
    DigestMismatch,
    NotUnderstood,
    OffLimits,
    RateLimited,
    UnknownCA,
    UpstreamError,
    UpstreamTimeout,
)
from regproxy.fill.download import failure, word_for


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("x"),
        UpstreamTimeout("x"),
        DigestMismatch("x"),
        Busy("x"),
        OffLimits("x"),
        UnknownCA("x"),
        RateLimited("x", 1),
        NotUnderstood("x", "too-large"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_there_and_back(error: UpstreamError) -> None:
    again = failure(word_for(error), str(error))
    assert (type(again), str(again), again.status) == (type(error), "x", error.status)
    assert again.is_logged is error.is_logged


@pytest.mark.parametrize("is_logged", [False, True])
def test_an_open_circuit_is_told_by_the_process_that_opened_it(is_logged: bool) -> None:
    error = CircuitOpen("x", 1)
    error.is_logged = is_logged
    again = failure(word_for(error), "x")
    assert (type(again), str(again), again.is_logged) == (CircuitOpen, "x", True)


def test_what_has_no_word_of_its_own() -> None:
    assert type(failure(word_for(ConnectFailed("x")), "x")) is UpstreamError
