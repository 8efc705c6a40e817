"""Who may ask: the web configuration file in force, read again when it or a file that it names has changed."""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from pathlib import Path

from aiometrics.http.basic_auth import Credentials, TooManyChecks
from aiometrics.http.messages import Request, Response, plain
from aiometrics.http.tls import Tls
from aiometrics.http.web_config import Stamp, WebConfig, load, stamp

logger = logging.getLogger("aiometrics")

_CHALLENGE = ("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"')
_COME_AGAIN = ("Retry-After", "1")


class AccessControl:
    """What the server asks before it answers.

    Certificates, keys and users may change while it stands, and count from the next connection or request on. A change that makes no
    sense is logged and what was in force stays so. Whether there is TLS, and whether there are users at all, is settled here: a file
    that is half written must not open the door.

    Raises as :func:`aiometrics.http.web_config.load`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamps: dict[Path, Stamp] = {}
        self._config = load(path, self._stamps)

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken, and nothing else."""
        return self._config.tls is not None

    def tls(self) -> Tls:
        """How to speak to the next client. Only where it is :attr:`encrypted`."""
        tls = self._current().tls
        if tls is None:
            raise RuntimeError("there is no TLS")
        return tls

    def authorize(self, request: Request) -> Response | None:
        """The refusal that ``request`` gets, or ``None`` if it may pass. The same for every path."""
        passwords = self._current().passwords
        if passwords is None:
            return None
        credentials = Credentials.of(request.headers.get("authorization"))
        try:
            if credentials and passwords.accept(credentials):
                return None
        except TooManyChecks:
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, (_COME_AGAIN,))
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
                        f"web_config {str(self._path)!r}: to begin or to end {part} start anew"
                    )
        except (ValueError, ModuleNotFoundError, OSError) as error:
            logger.error("%s; what was read before stays in force", error)  # noqa: TRY400 - it is no error of ours
        else:
            self._config = config
