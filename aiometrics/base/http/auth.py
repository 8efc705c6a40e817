"""Access control: applies the web configuration file, and reads it again when it has changed."""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from pathlib import Path

from aiometrics.base.http.basic_auth import Credentials, TooManyChecks
from aiometrics.base.http.messages import Request, Response, plain
from aiometrics.base.http.tls import Tls
from aiometrics.base.http.web_config import Stamp, WebConfig, load, stamp

logger = logging.getLogger("aiometrics")

_CHALLENGE = ("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"')
_RETRY_LATER = ("Retry-After", "1")


class AccessControl:
    """Decides whether a request is answered, and how connections are encrypted.

    Certificates, keys and users may change at run time, and take effect from the next connection or
    request on. An invalid change is logged, and the previous state stays in force. Whether there is
    TLS, and whether there are users, is settled here once: a half-written file must not open
    access.

    Raises the errors of :func:`aiometrics.base.http.web_config.load`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamps: dict[Path, Stamp] = {}
        self._config = load(path, self._stamps)

    @property
    def encrypted(self) -> bool:
        """Whether connections must use TLS."""
        return self._config.tls is not None

    def tls(self) -> Tls:
        """Return the TLS settings for the next connection, which must be :attr:`encrypted`."""
        tls = self._current().tls
        if tls is None:
            raise RuntimeError("there is no TLS: call tls() only if connections are encrypted")
        return tls

    def authorize(self, request: Request) -> Response | None:
        """Return the refusal for ``request``, the same for every path; ``None`` if it may pass."""
        passwords = self._current().passwords
        if passwords is None:
            return None
        credentials = Credentials.of(request.headers.get("authorization"))
        try:
            if credentials and passwords.accept(credentials):
                return None
        except TooManyChecks:
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, (_RETRY_LATER,))
        return plain(HTTPStatus.UNAUTHORIZED, (_CHALLENGE,))

    def _current(self) -> WebConfig:
        with self._lock:
            if any(stamp(path) != seen for path, seen in self._stamps.items()):
                self._reload()
            return self._config

    def _reload(self) -> None:
        self._stamps = {}
        try:
            config = load(self._path, self._stamps)
            for part in ("tls", "passwords"):
                if (getattr(config, part) is None) != (getattr(self._config, part) is None):
                    raise ValueError(  # noqa: TRY301 - logged here
                        f"web_config {str(self._path)!r}: "
                        f"restart the process to begin or to end {part}"
                    )
        except (ValueError, ModuleNotFoundError, OSError) as error:
            logger.error("aiometrics: %s; the previous configuration stays in force", error)  # noqa: TRY400 - not our error
        else:
            self._config = config
