"""Who makes the records of large bodies: a self-test and a setting decide."""

from __future__ import annotations

import logging

import pytest

from regproxy.config.sources.assembly import load
from regproxy.dataplane.records_self_test import records_fault
from regproxy.process import wiring
from regproxy.tls.authority import throwaway


class TestSelfTest:
    def test_openssl_opens_what_was_sealed(self) -> None:
        assert records_fault(*throwaway()) == ""

    def test_a_suite_that_does_not_work(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(wiring, "records_fault", lambda chain, key: "TLS_X: broken")
        with caplog.at_level(logging.INFO):
            assert not wiring.own_records(load({}))
        assert "OpenSSL makes all of them, as our own failed the self-test: TLS_X: broken" in caplog.text

    def test_the_setting(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert wiring.own_records(load({}))
            assert not wiring.own_records(load({"REGPROXY_TLS_RECORDS": "openssl"}))
        assert "made and opened here where that pays" in caplog.text
        assert "OpenSSL makes all of them (REGPROXY_TLS_RECORDS=openssl)" in caplog.text
