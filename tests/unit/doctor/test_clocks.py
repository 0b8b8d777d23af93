"""Clocks and the CA's dates."""

from __future__ import annotations

import pytest
from cryptography import x509

from regproxy.doctor.clocks import examine
from regproxy.tls.x509 import make_ca

NOW = 1_800_000_000.0
DAY = 86_400.0
CA = x509.load_pem_x509_certificate(make_ca(NOW)[0])


@pytest.mark.parametrize(
    "now, date, levels",
    [
        (NOW, NOW, ["ok"]),
        (NOW, None, ["ok"]),
        (NOW, NOW - 299, ["ok"]),
        (NOW, NOW + 301, ["warning"]),
        (NOW - 3 * DAY, NOW, ["error"]),
        (NOW + 3640 * DAY, NOW + 3640 * DAY, ["warning"]),
        (NOW + 3640 * DAY, NOW, ["warning", "warning"]),
        (NOW + 3651 * DAY, NOW, ["error"]),
    ],
)
def test_clocks(now: float, date: float | None, levels: list[str]) -> None:
    assert [finding.level for finding in examine(CA, date, now)] == levels
