"""The endpoints of a port: the metrics, a live page for people, and a health check for probes."""

from __future__ import annotations

import errno
import html
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aiometrics.base import fork, green_threads
from aiometrics.base.handover import HAND_OVER
from aiometrics.base.http.listener import url
from aiometrics.base.http.messages import Request, Response
from aiometrics.base.http.server import HttpServer, Route
from aiometrics.base.internal_errors import STAYS_ON, InternalErrors
from aiometrics.base.options import ServingOptions
from aiometrics.base.yielding import Pause
from aiometrics.exporter.live import LiveHandler, page_routes
from aiometrics.exporter.scrape import ScrapeHandler, give_way
from aiometrics.exporter.service import Service
from aiometrics.exposition.collection import Registry
from aiometrics.exposition.families import ExporterInfo
from aiometrics.exposition.idle_waits import of_no_library
from aiometrics.pages.records import Records
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import RECORDER_HAND_OVER

if TYPE_CHECKING:
    from aiometrics.base.http.auth import AccessControl
    from aiometrics.exporter.profiles import Profiles
    from aiometrics.exposition.profile_parents import Lineages

logger = logging.getLogger("aiometrics")

_STANDS_BY = (
    "aiometrics: port %s is taken, probably by another process of this service: "
    "this process stands by"
)
_TAKEN = (
    "aiometrics: %s.%s Meanwhile this process is traced, and tries again every second "
    "(on_error='raise' refuses to start instead)"
)


class SnapshotSource(Protocol):
    """Returns all numbers. What records can keep may be there, if they are given."""

    def __call__(self, records: Records | None = None, /) -> Snapshot:
        """Return the snapshot."""


class Endpoints:
    """Serves the snapshots of ``source()`` and the metrics of ``registry`` as ``options`` say.

    The port is taken by :meth:`bind`, answered from :meth:`start` on and freed by :meth:`close`.
    On the live page, tasks wait because there is nothing to do where ``of_library(yield_point)``.
    In a ``service`` only the leader takes the port, and the others stand by. If there is none and
    the pages are ``shared``, any process that has the port probably answers for this one. ``debug``
    has further routes by path, and ``lineages`` is for profiles with parents.
    """

    def __init__(
        self,
        options: ServingOptions,
        source: SnapshotSource,
        registry: Registry | None,
        internal_errors: InternalErrors,
        info: ExporterInfo,
        *,
        shared: bool = False,
        service: Service | None = None,
        of_library: Callable[[str], bool] = of_no_library,
        debug: Mapping[str, Route] | None = None,
        lineages: Callable[[], Callable[[Pause], Lineages]] | None = None,
    ) -> None:
        self._options = options
        self._service = service
        self._shared = shared
        self._source = source
        self._profiles: Profiles | None = None
        self._lineages = lineages
        self._routes: dict[str, Route] = {
            "/": self._index,
            **page_routes(),
            "/metrics": self._metrics,
            "/debug/live": self._live,
            "/-/healthy": self._healthy,
            "/debug/pprof/profile": self._profile,
            "/debug/pprof/delta": self._profile,
            **(debug or {}),
        }
        self._title = f"aiometrics {info.version} ({info.implementation})"
        self._report = partial(internal_errors.report, outcome=STAYS_ON)
        self._scrape_handler = ScrapeHandler(
            lambda records: (source(records), info),
            registry,
            partial(self._report, "registry"),
        )
        self._live_handler = LiveHandler(lambda: (source(), info), of_library)
        self._access_control = self._new_access_control()
        self._encrypted = self._access_control is not None and self._access_control.encrypted
        self._server: HttpServer | None = None
        self._logged: set[str] = set()
        fork.forget_in_child(self, fork.Stage.LOCKS, Endpoints._forget_server)

    @property
    def bound(self) -> bool:
        """Whether this process has the port."""
        return self._server is not None

    @property
    def port(self) -> int:
        """The port that is served, also if 0 was asked for.

        While another process serves it, this is the port that was asked for.
        """
        return self._options.port if self._server is None else self._server.port

    @property
    def url(self) -> str:
        """The address of the metrics, as seen from this machine."""
        base = (
            url(self._options.addr, self.port, encrypted=self._encrypted)
            if self._server is None
            else self._server.url
        )
        return f"{base}/metrics"

    def bind(self) -> None:
        """Bind the port. Raises ``OSError`` if that fails."""
        self._server = HttpServer(
            self._options.addr,
            self._options.port,
            self._routes,
            on_error=self._report,
            request_timeout=self._options.request_timeout,
            max_connections=self._options.max_connections,
            access_control=self._access_control or self._new_access_control(),
            hand_over=HAND_OVER if green_threads.patched_by() else RECORDER_HAND_OVER,
        )

    def try_to_bind(self, *, or_raise: bool = False) -> bool:
        """Bind the port, and return False if another process has it, which is logged once.

        Raises ``OSError`` if binding fails for another reason; with ``or_raise`` also if the
        process that has the port does not answer for this one.
        """
        if self._service is not None and not self._service.lead():
            self._log_once(logging.INFO, _STANDS_BY, self.port)
            return False
        try:
            self.bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if self._shared:
                self._log_once(logging.INFO, _STANDS_BY, self.port)
            elif or_raise:
                raise
            else:
                self._log_once(logging.WARNING, _TAKEN, error.strerror, self._other_service())
            return False
        if self._service is not None:
            self._service.announce()
        return True

    def _log_once(self, level: int, message: str, *values: object) -> None:
        if message not in self._logged:
            self._logged.add(message)
            logger.log(level, message, *values)

    def _other_service(self) -> str:
        """Return a sentence about the service that has the port, if aiometrics exports it."""
        other = "" if self._service is None else self._service.owner_of_port()
        return f" Another service has it, {other}: give each a port of its own." if other else ""

    def start(self) -> None:
        """Begin to answer, if this process has the port.

        Raises ``RuntimeError``, and frees the port, if no thread can be started.
        """
        if self._server is None:
            return
        try:
            self._server.start()
        except BaseException:
            self._free_port()
            self._server = None
            raise

    def take_over(self) -> None:
        """Bind the port and begin to answer, if no other process has it any more."""
        if self._server is None and self.try_to_bind():
            logger.info("aiometrics: port %s became free: this process serves it now", self.port)
            self.start()

    def close(self) -> None:
        """Free the port, and let go of the application's registry; nothing is served any more.

        Does not free the port in a forked child, whose parent serves it.
        """
        if self._profiles is not None:
            self._profiles.close()
        self._free_port()
        self._scrape_handler.close()

    def _free_port(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._service is not None:
            self._service.resign()

    def _forget_server(self) -> None:
        """In a forked child: drop the server, which is the parent's, and inherited locks."""
        self._server = self._access_control = None

    def _new_access_control(self) -> AccessControl | None:
        if not self._options.web_config:
            return None
        from aiometrics.base.http.auth import AccessControl  # noqa: PLC0415 - few services need it
        from aiometrics.base.http.web_config import path_of  # noqa: PLC0415 - as above

        return AccessControl(path_of(self._options.web_config))

    def _metrics(self, request: Request) -> Response:
        return self._scrape_handler.answer(request.headers.get("accept"))

    def _live(self, _: Request) -> Response:
        return self._live_handler.answer()

    def _profile(self, request: Request) -> Response:
        with fork.creation_lock:  # so that no child inherits a module that is half imported
            if self._profiles is None:
                from aiometrics.exporter.profiles import Profiles  # noqa: PLC0415 - few ask

                self._profiles = Profiles(
                    self._source,
                    give_way,
                    self._options.max_connections,
                    lineages=self._lineages,
                )
        return self._profiles.routes[request.path.removesuffix("/")](request)

    def _index(self, _: Request) -> Response:
        title = html.escape(self._title)
        body = (
            f'<!DOCTYPE html><html lang="en"><title>{title}</title><h1>{title}</h1>'
            '<p><a href="/metrics">Metrics</a></p></html>\n'
        )
        return Response(200, body.encode(), "text/html; charset=utf-8")

    def _healthy(self, _: Request) -> Response:
        return Response(200, b"OK\n")
