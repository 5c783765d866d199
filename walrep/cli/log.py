"""Events into lines of log on stderr: for people on a terminal, JSON everywhere else.

A line of JSON has `timestamp`, `level`, `event` (the tag of the event's class) and the event's fields. Levels are
those of the event classes. `report` may be called from any thread: a line is written whole.
"""

from __future__ import annotations

from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from walrep.cli.output import Failure, format_size
from walrep.clock import Clock
from walrep.core.events import Event, Report
from walrep.core.target import format_duration, format_time

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "Log", "LogFormat", "LogLevel"]

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "human", "json")
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")

_EVENT_PAD = 16


class Log:
    """The log of one process, on one stream."""

    def __init__(self, stream: TextIO, clock: Clock, *, form: LogFormat = "auto", level: LogLevel = "info") -> None:
        self._clock = clock
        self.is_json = form == "json" or (form == "auto" and not stream.isatty())
        self._logger: FilteringBoundLogger = structlog.wrap_logger(
            structlog.WriteLogger(stream),
            processors=[structlog.processors.add_log_level, self._add_time, *self._renderers(stream)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=True,
        )

    @property
    def report(self) -> Report:
        """The callable to which the engine hands its events."""
        return self._report

    def failure(self, failure: Failure) -> None:
        """Write why the process ends, as its last line."""
        self._logger.error("exit", **{key: value for key, value in _fields(failure).items() if key != "type"})

    def _report(self, event: Event) -> None:
        fields = _fields(event)
        name = fields.pop("event")
        getattr(self._logger, event.level)(name, **fields)

    def _add_time(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        head = {"timestamp": format_time(self._clock.now_ms()), "level": line["level"], "event": line["event"]}
        return {**head, **line}

    def _renderers(self, stream: TextIO) -> list[Processor]:
        if self.is_json:
            return [structlog.processors.JSONRenderer(serializer=_to_json)]
        return [
            _for_people,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=_EVENT_PAD, sort_keys=False),
        ]


def _fields(value: msgspec.Struct) -> dict[str, object]:
    """Return the fields, the database first: it tells the lines of many apart."""
    fields: dict[str, object] = msgspec.to_builtins(value)
    return {key: fields[key] for key in sorted(fields, key="database".__ne__)}


def _to_json(line: EventDict, **_options: object) -> str:
    return msgspec.json.encode(line).decode()


def _for_people(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Leave out what says nothing, give numbers their units, and put a message in the place of the tag."""
    shown: EventDict = {}
    for key, value in line.items():
        if key.endswith("_bytes") and isinstance(value, int):
            shown[key.removesuffix("_bytes")] = format_size(value)
        elif (key.endswith("_s") or key == "seconds") and isinstance(value, int | float):
            shown["took" if key == "seconds" else key.removesuffix("_s")] = format_duration(round(value * 1000))
        elif value is not None and value != "":
            shown[key] = value
    if "message" in shown:
        shown["event"] = f"{shown['event']}: {shown.pop('message')}"
    return shown
