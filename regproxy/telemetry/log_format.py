"""Format the log of all processes: text for people, or one JSON object a line for programs.

The access log and the audit log have formats of their own. In neither format here can a message end a line or
begin another one, whoever has sent what it quotes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import tomllib
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, TextIO

from regproxy.config.values.words import LogLevel, LogStyle, parse_log_style
from regproxy.core.request_context import CURRENT

Role = Literal["supervisor", "worker", "janitor", "debug_view", "debug_hub"]

# What each line has, in this order.
ALWAYS: Final = ("time", "level", "logger", "role", "slot", "pid", "message")
# What a line has where there is such a thing: attributes of the record, put there by `extra`.
FIELDS: Final = (
    *("request_id", "client", "host", "registry", "repository", "digest"),
    *("bytes", "total", "attempts", "asked", "reason"),
)
EXCEPTION: Final = "exception"
_SETTING: Final = "REGPROXY_LOG_FORMAT"
_TRACEBACK_MAX: Final = 16_384  # characters; of a longer one the middle is left out
# Characters that end a line for some reader, that a terminal obeys, or that turn the order of what it shows.
_CONTROLS: Final = (
    *(*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x200E, 0x200F),
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)),
)
_NAMES: Final = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_ESCAPES: Final = {
    code: _NAMES.get(code, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}") for code in _CONTROLS
}


def _request_of(record: logging.LogRecord) -> str:
    """Return the id of the request that a record is about: what it says itself, or that of its task."""
    said = record.__dict__.get("request_id")
    current = CURRENT.get()
    return str(said) if said else current.request_id if current is not None else ""


def printable(text: str) -> str:
    """Return a text in one line, with its control characters escaped."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def _in_lines(text: str) -> str:
    """Return a traceback as text whose lines can't be taken for lines of the log: all are indented."""
    return "\n".join("  " + printable(line) for line in text.split("\n"))


def _shortened(text: str) -> str:
    """Return a traceback without its middle where it is long, as that of an endless recursion."""
    if len(text) <= _TRACEBACK_MAX:
        return text
    half = _TRACEBACK_MAX // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


class TextFormatter(logging.Formatter):
    """Lines for people. `who`, which begins with a blank, tells several processes apart.

    What is logged for a request ends with that request's id.
    """

    def __init__(self, who: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, without a traceback."""
        request_id, text = _request_of(record), printable(record.message)
        record.message = f"{text} [request {request_id}]" if request_id else text
        return super().formatMessage(record)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return a traceback, each of its lines indented."""
        return _in_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return a stack, each of its lines indented."""
        return _in_lines(stack_info)


class JsonFormatter(logging.Formatter):
    """Lines for programs: ALWAYS, those of FIELDS that there are, and EXCEPTION with a traceback."""

    def __init__(self, role: Role, slot: int = 0) -> None:
        """`slot`: of a worker, which its successor has too."""
        super().__init__()
        self._who = {"role": role, "slot": slot, "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object in ASCII, without its line end."""
        try:
            message = record.getMessage()
        except Exception:  # a call with the wrong number of values must not be lost
            message = f"{record.msg!r} % {record.args!r}"
        line: dict[str, object] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._who,
            "message": message,
        }
        if request_id := _request_of(record):
            line["request_id"] = request_id
        has = record.__dict__
        line |= {name: has[name] for name in FIELDS if has.get(name) not in (None, "")}
        if record.exc_info:
            line[EXCEPTION] = _shortened(self.formatException(record.exc_info))
        elif record.stack_info:
            line[EXCEPTION] = _shortened(record.stack_info)
        return json.dumps(line, default=str)


def rfc3339(seconds: float) -> str:
    """Return a time of the epoch by RFC 3339, in UTC and milliseconds."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def log_to_stderr(level: LogLevel, style: LogStyle, role: Role, slot: int | None = None) -> None:
    """Set up this process's log, also for what Python itself has to say. May be called again."""
    formatter: logging.Formatter
    if style == "json":
        formatter = JsonFormatter(role, slot or 0)
    else:
        formatter = TextFormatter("" if slot is None else f" {role}-{slot}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("regproxy").critical("ended by an error", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "?"
    told = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("regproxy").error("the thread %s ended by an error", name, exc_info=told)


def say_end(
    error: object, style: LogStyle, role: Role, slot: int = 0, *, stream: TextIO | None = None
) -> None:
    """Write the error that ends a process, in the log's format: also where there is no configuration.

    A text of several lines, as of several errors, is a line, or an object, for each.
    """
    stream = stream or sys.stderr
    lines = str(error).split("\n")
    if style == "json":
        formatter = JsonFormatter(role, slot)
        records = [{"name": "regproxy", "levelno": logging.CRITICAL, "msg": line} for line in lines]
        texts = [formatter.format(_record(each)) for each in records]
    else:
        texts = [f"regproxy: {printable(lines[0])}", *(printable(line) for line in lines[1:])]
    stream.write("".join(f"{text}\n" for text in texts))
    stream.flush()


def _record(told: dict[str, object]) -> logging.LogRecord:
    return logging.makeLogRecord({**told, "levelname": "CRITICAL", "args": ()})


def style_of(env: Mapping[str, str], toml: str | None = None) -> LogStyle:
    """Return the format that is asked for where the configuration can't be read; text where it can't be told.

    `toml`: the text of the file, if there is one.
    """
    found: object = env.get(_SETTING, "")
    if not found and toml is not None:
        try:
            table = tomllib.loads(toml)
        except (ValueError, RecursionError):
            table = {}
        found = table.get("log_format") or table.get(_SETTING.lower())
    try:
        return parse_log_style(str(found))
    except ValueError:
        return "text"
