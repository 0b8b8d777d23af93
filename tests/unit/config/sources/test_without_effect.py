"""Warnings of what a configuration says of clients to no effect."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load

LOGIN = '[origin."reg.example".credentials]\nusername = "u"\npassword = "p"\nprincipals = ["{}"]\n'
RULE = '[[rule]]\nname = "one"\naction = "deny"\nprincipal = ["{}"]\nrepository = ["a/*"]\n'
NOBODY = "no client is called 'ci': no [principal.ci], and no htpasswd file"

# (TOML, environment, what is warned of)
ROWS = [
    (LOGIN.format("ci"), {}, f'origin."reg.example".credentials: {NOBODY}'),
    (RULE.format("ci"), {}, f"rule 'one': {NOBODY}"),
    (LOGIN.format("ci"), {"REGPROXY_HTPASSWD": "/file"}, ""),
    (LOGIN.format("ci") + '[principal.ci]\naddresses = ["10.0.0.0/8"]\n', {}, ""),
    (LOGIN.format("*"), {}, ""),
    (RULE.format("CN:builder"), {}, ""),
    (RULE.format("anonymous"), {}, ""),
    (RULE.format("c*"), {}, ""),
    (
        '[principal.ci]\nusers = ["u"]\n',
        {},
        "principal: users of ci have no effect without REGPROXY_HTPASSWD",
    ),
    (
        '[principal.ci]\ncertificates = ["CN:u"]\n',
        {},
        "principal: certificates of ci have no effect without REGPROXY_CLIENT_CA_FILE",
    ),
    ('[principal.ci]\nusers = ["u"]\n', {"REGPROXY_HTPASSWD": "/file"}, ""),
]


@pytest.mark.parametrize(("toml", "env", "warning"), ROWS)
def test_what_is_warned_of(toml: str, env: dict[str, str], warning: str) -> None:
    assert list(load(env, toml).warnings) == ([warning] if warning else [])
