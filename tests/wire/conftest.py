"""Fixtures that test modules of the wire share."""

from __future__ import annotations

import pytest

from tests.support.origin import Origin
from tests.support.shared_proxy import Lane


@pytest.fixture(scope="module")
def origin(lane: Lane) -> Origin:
    return lane.origin
