"""Formats log records as JSON with the field names of the Elastic Common Schema, one per line.

Elasticsearch and Loki index such lines as they are.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiometrics.base.clock import SECOND_NS

VERSION = "8.11.0"


class EcsFormatter(logging.Formatter):
    """Formats any record as one line of JSON with flat, dotted ECS names.

    A mapping in the record's attribute ``ecs`` adds fields of its own. Values that JSON does not
    know are written as their ``str()``, and characters that UTF-8 cannot carry as ``?``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without a line break."""
        fields = {
            "@timestamp": timestamp(round(record.created * 1_000_000) * 1000),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
            **self._error(record),
            **_own(record),
        }
        try:
            line = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=str)
        except ValueError:
            line = json.dumps(_finite(fields), ensure_ascii=False, default=str)
        return line.encode(errors="replace").decode()

    def _error(self, record: logging.LogRecord) -> dict[str, str]:
        if not record.exc_info or record.exc_info[1] is None:
            return {}
        error = record.exc_info[1]
        return {
            "error.type": f"{type(error).__module__}.{type(error).__qualname__}",
            "error.message": str(error),
            "error.stack_trace": self.formatException(record.exc_info),
        }


def timestamp(unix_ns: int) -> str:
    """Return a time of day as ISO 8601 in UTC with microseconds."""
    seconds, ns = divmod(unix_ns, SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _finite(value: Any) -> Any:
    """Return ``value`` with infinities and NaN as text, because JSON has no such numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _own(record: logging.LogRecord) -> Mapping[str, Any]:
    own = getattr(record, "ecs", None)
    return own if isinstance(own, Mapping) else {}
