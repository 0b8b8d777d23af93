"""Hosts by regular expressions, as nginx's server_name and `hostnames` maps have them: `~` ahead of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2  # type: ignore[import-untyped]

from regproxy.config.values.pcre import nginx_unescaped, translate


@lru_cache(maxsize=256)
def compile_host_regex(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether `~regex` (or `~*regex`) takes a host in lower case.

    As in nginx it may match anywhere in the name, unless it has `^` and `$`, and case does not matter. RE2
    runs it, since hosts come from clients. Raises ValueError for what RE2 can't run.
    """
    options = re2.Options()
    options.log_errors = False  # else RE2 writes to standard error by itself
    options.never_capture = True
    options.case_sensitive = False
    regex = nginx_unescaped(pattern.removeprefix("~").removeprefix("*"))
    try:
        if not regex:
            raise ValueError("nothing is left of it")
        search = re2.compile(translate(regex, end=r"\z"), options).search
    except (re2.error, ValueError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"a regular expression that RE2 takes ({text})") from None
    return lambda host: search(host.encode("utf-8", "surrogatepass")) is not None
