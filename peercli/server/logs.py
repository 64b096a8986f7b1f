"""Log records as lines of JSON, for machines that collect them."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["JsonFormatter", "log_to_stderr"]


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", …}`; what a record has as `fields` stands beside them."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(*, json: bool) -> None:
    """Have the broker tell what happens, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if json else text)
    logger = logging.getLogger("peercli.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
