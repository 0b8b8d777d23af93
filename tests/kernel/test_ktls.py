"""The proxy where the kernel does TLS: tests/kernel/guest.py in a virtual machine, for kernels differ in it.

The machine is booted once, without a network and without hardware virtualisation; it takes about a minute.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kernel import guest, machine

BOUND = 400  # seconds until the machine is killed

MISSING = machine.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"kTLS needs a virtual machine: {MISSING}"),
    pytest.mark.timeout(BOUND + 60),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the machine said: the errors by check, and its "log" and "failed" where it said them."""
    lines = machine.run(tmp_path_factory.mktemp("machine"), timeout=BOUND)
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith(guest.MARK):
            said = json.loads(line.removeprefix(guest.MARK))
            found |= {said["check"]: said["error"]} if "check" in said else said
    assert "failed" not in found, found["failed"]
    assert found, "the machine said nothing:\n" + "\n".join(lines[-50:])
    return found


@pytest.mark.parametrize("check", guest.CHECKS)
def test_under_a_kernel_that_does_tls(check: str, results: dict[str, Any]) -> None:
    assert check in results, f"the machine was stopped after {BOUND} s; it had done {list(results)}"
    assert results[check] == "", f"{results[check]}\n{results.get('log', '')}"
