"""The request scope that a piece of code runs in; tasks inherit it as they inherit every context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

current_scope: ContextVar[Any] = ContextVar("aiometrics_request_scope")
