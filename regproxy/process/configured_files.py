"""Check the files that the settings name, at the start, at a reload, and for `regproxy check-config`.

And what else only a machine can tell, such as what its OpenSSL has.
Each is read by the same functions as in use. What one of them says of a file is a fault of the setting that
names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from regproxy.admin.tokens import check_tokens
from regproxy.auth.clients.certificates import check_client_cas
from regproxy.auth.clients.logins import check_htpasswd
from regproxy.auth.credential_providers import check_credential_files
from regproxy.config import directories
from regproxy.config.faults import ConfigErrors, try_all
from regproxy.config.key_files import read_keys
from regproxy.config.settings import Config
from regproxy.core.errors import CertificateError, ConfigError
from regproxy.debug import views
from regproxy.server.verdict_hooks import check_verdict_files
from regproxy.telemetry.log_sink import check_log
from regproxy.tls import ca_files
from regproxy.tls.client_contexts import check_trust
from regproxy.tls.mirror_identity import check_tls_files
from regproxy.tls.server_contexts import check_groups
from regproxy.tracing import environment


def check(config: Config) -> None:
    """Raise ConfigError, or ConfigErrors, for all files without which a configuration can't be used.

    Not for the CA's, which the supervisor makes or reads next.
    """
    try_all(partial(each, config) for each in _CHECKS)


def doubtful(config: Config) -> tuple[ConfigError, ...]:
    """Return the faults of files that may still come, or come to be right: of logins for registries."""
    try:
        check_credential_files(config)
    except ConfigErrors as errors:
        return errors.errors
    except ConfigError as error:
        return (error,)
    return ()


def check_all(config: Config, env: Mapping[str, str]) -> None:
    """Raise ConfigError, or ConfigErrors, for all files and directories with a fault. Makes none of them.

    And for OpenTelemetry's variables.
    """
    every = (
        check,
        check_credential_files,
        directories.check,
        partial(_check_ca, env=env),
        partial(_check_traces, env=env),
    )
    try_all(partial(each, config) for each in every)


def _check_logs(config: Config) -> None:
    logs = {"REGPROXY_ACCESS_LOG": config.access_log, "REGPROXY_AUDIT_LOG": config.audit_log}
    try_all(partial(check_log, setting, where) for setting, where in logs.items())


def _check_keys(config: Config) -> None:
    read_keys(config.signing_keys)


def _check_traces(_: Config, env: Mapping[str, str]) -> None:
    environment.read(env)


def _check_ca(config: Config, env: Mapping[str, str]) -> None:
    files = ca_files.files_of(config, *directories.ca_paths(config, env))
    try:
        files.passphrase()
    except CertificateError as error:
        path = str(files.passphrase_file)
        why = str(error).removeprefix(f"{path}: ")
        raise ConfigError("REGPROXY_CA_PASSPHRASE_FILE", path, why) from None
    try:
        ca_files.check(files, time.time())
    except CertificateError as error:
        named = {"CA_CRT_FILE": config.ca_crt_file, "CA_KEY_FILE": config.ca_key_file}
        settings = [name for name, path in named.items() if path] or ["REGPROXY_CA_DIR"]
        raise ConfigError(", ".join(settings), None, str(error)) from None


_CHECKS: tuple[Callable[[Config], None], ...] = (
    *(check_htpasswd, check_client_cas, check_tls_files, check_trust),
    *(_check_keys, check_verdict_files, _check_logs, check_groups, check_tokens, views.check),
)
