"""The JSON log line of every component: `time`, `level`, `service`, `event`, then the event's own fields."""

import json
import logging
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

TIME_PATTERN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
"""RFC 3339 in UTC with microseconds, as :func:`timestamp` writes it and Alloy parses it."""


def timestamp(at: float | None = None) -> str:
    """Return an epoch time (default: the current time) as RFC 3339 with microseconds and `Z`."""
    at = time.time() if at is None else at
    second = int(at)
    microseconds = round((at - second) * 1e6)
    if microseconds == 1_000_000:
        second, microseconds = second + 1, 0
    return f"{_date_and_time(second)}.{microseconds:06d}Z"


@lru_cache(maxsize=16)
def _date_and_time(second: int) -> str:
    """Return a whole epoch second as `YYYY-MM-DDTHH:MM:SS` in UTC. Lines of the same second share it."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:-6]  # Without +00:00.


def log_line(service: str, level: str, event: str, **fields: object) -> str:
    """Return one log line, without its newline. Never pass prompts, completions or keys."""
    return json.dumps(
        {"time": timestamp(), "level": level, "service": service, "event": event, **fields},
        ensure_ascii=False,
        default=str,
    )


def add_time(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add `time` to a structlog event; a structlog processor."""
    event["time"] = timestamp()
    return event


class LibraryLog(logging.Handler):
    """Passes the warnings and errors of libraries to ``write(level, event, **fields)``.

    Without a handler Python prints them to stderr as plain text, which no log reader can parse.
    """

    def __init__(self, write: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; the logging module calls it."""
        fields: dict[str, object] = {"logger": record.name, "detail": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._write(record.levelname.lower(), "library", **fields)


def capture_library_log(service: str) -> None:
    """Print the warnings and errors of every library as log lines of ``service`` on stdout."""

    def write(level: str, event: str, **fields: object) -> None:
        print(log_line(service, level, event, **fields), flush=True)

    logging.getLogger().addHandler(LibraryLog(write))
