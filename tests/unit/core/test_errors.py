"""The log level of what follows from errors, whose cause may be logged already."""

from __future__ import annotations

import logging

import pytest

from regproxy.core.errors import CircuitOpen, ConnectFailed, StoreError, UnknownCA, log_level


@pytest.mark.parametrize(
    ("error", "usual", "want"),
    [
        (UnknownCA(""), logging.WARNING, logging.DEBUG),
        (UnknownCA(""), logging.INFO, logging.DEBUG),
        (ConnectFailed(""), logging.WARNING, logging.WARNING),
        (ConnectFailed(""), logging.INFO, logging.INFO),
        (CircuitOpen("", 1), logging.WARNING, logging.WARNING),
        (StoreError(""), logging.WARNING, logging.WARNING),
        ("it answered 503", logging.WARNING, logging.WARNING),
    ],
    ids=str,
)
def test_log_level(error: object, usual: int, want: int) -> None:
    assert log_level(error, usual) == want
