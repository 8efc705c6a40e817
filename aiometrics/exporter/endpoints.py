"""What a port shows: the metrics, a page for people, and one for probes."""

from __future__ import annotations

import errno
import html
import logging
from collections.abc import Callable
from functools import partial

from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.base.version import __version__
from aiometrics.exporter.scrape import ScrapeHandler
from aiometrics.exposition.collector import Registry
from aiometrics.exposition.families import ExporterInfo
from aiometrics.http.auth import AccessControl
from aiometrics.http.listener import url
from aiometrics.http.messages import Request, Response
from aiometrics.http.server import MetricsServer
from aiometrics.http.web_config import path_of
from aiometrics.options import ServingOptions
from aiometrics.pages.snapshot import Snapshot

logger = logging.getLogger("aiometrics")


class Endpoints:
    """The snapshots of ``source()`` and the metrics of ``registry``, served as ``options`` say from :meth:`open` to :meth:`close`."""

    def __init__(
        self,
        options: ServingOptions,
        source: Callable[[], Snapshot],
        registry: Registry | None,
        internal_errors: InternalErrors,
        *,
        implementation: str,
    ) -> None:
        self._options = options
        self._title = f"aiometrics {__version__} ({implementation})"
        self._report = partial(internal_errors.report, outcome=STAYS_ON)
        self._scrape_handler = ScrapeHandler(
            lambda: (source(), ExporterInfo(__version__, implementation)),
            registry,
            partial(self._report, "registry"),
        )
        self._access = self._new_access_control()
        self._encrypted = self._access is not None and self._access.encrypted
        self._server: MetricsServer | None = None
        self._standing_by = False

    @property
    def port(self) -> int:
        """The port that is served, also if 0 was asked for; while another process has it, the one that was asked for."""
        return self._options.port if self._server is None else self._server.port

    @property
    def url(self) -> str:
        """The address of the metrics as this machine reaches it."""
        base = (
            url(self._options.addr, self.port, encrypted=self._encrypted)
            if self._server is None
            else self._server.url
        )
        return f"{base}/metrics"

    def bind(self) -> None:
        """Take the port. Raises ``OSError`` if it cannot be had."""
        self._server = MetricsServer(
            self._options.addr,
            self._options.port,
            {"/": self._index, "/metrics": self._metrics, "/-/healthy": self._healthy},
            on_error=self._report,
            request_timeout=self._options.request_timeout,
            max_connections=self._options.max_connections,
            access=self._access or self._new_access_control(),
        )

    def try_to_bind(self) -> bool:
        """Take the port unless somebody has it. Raises ``OSError`` if it cannot be had for another reason."""
        try:
            self.bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if not self._standing_by:
                logger.info(
                    "port %s is taken, by another process of this service I suppose: this one stands by",
                    self.port,
                )
            self._standing_by = True
            return False
        return True

    def start(self) -> None:
        """Answer, if the port is ours. Raises ``RuntimeError``, and frees it, if there is no thread to be had."""
        if self._server is None:
            return
        try:
            self._server.start()
        except BaseException:
            self._server.close()
            self._server = None
            raise

    def take_over(self) -> None:
        """Take the port and answer, once nobody else does."""
        if self._server is None and self.try_to_bind():
            logger.info("port %s has become free: this process answers there now", self.port)
            self.start()

    def close(self) -> None:
        """Free the port; in a forked child, let go of it."""
        if self._server is not None:
            self._server.close()

    def forget(self) -> None:
        """In a forked child: let go of the port, which the parent serves, and of what its threads had locked."""
        self.close()
        self._server = self._access = None
        self._scrape_handler.forget()

    def _new_access_control(self) -> AccessControl | None:
        return (
            AccessControl(path_of(self._options.web_config)) if self._options.web_config else None
        )

    def _metrics(self, request: Request) -> Response:
        return self._scrape_handler.answer(request.headers.get("accept"))

    def _index(self, _: Request) -> Response:
        title = html.escape(self._title)
        page = f'<!DOCTYPE html><html lang="en"><title>{title}</title><h1>{title}</h1><p><a href="/metrics">Metrics</a></p></html>\n'
        return Response(200, page.encode(), "text/html; charset=utf-8")

    def _healthy(self, _: Request) -> Response:
        return Response(200, b"OK\n")
