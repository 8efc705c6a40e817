"""Where the numbers come from: the pages of a directory, or an exporter's address."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from aiometrics.base.clock import monotonic
from aiometrics.exposition.idle_waits import of_no_library
from aiometrics.pages.multiprocess.directory import SharedDirectory
from aiometrics.pages.snapshot import Snapshot
from aiometrics.top.live_json import snapshot_of, waits_for_work
from aiometrics.top.processes import directories_of, urls_of

_TIMEOUT_SECONDS = 5.0
#: An answer is smaller by far; anything else may be endless.
_MOST_BYTES = 64 << 20
_LIVE = "/debug/live"


class SourceError(Exception):
    """There are no numbers. The message says why, and what to do."""


class Reading(NamedTuple):
    """A snapshot, and what tells the yield points where tasks wait for something to do."""

    snapshot: Snapshot
    of_library: Callable[[str], bool] = of_no_library


class Source(Protocol):
    """Gives the numbers of a service; ``name`` is shown to people."""

    name: str

    def read(self) -> Reading:
        """Return the numbers now. Raises ``SourceError``."""


class DirectorySource:
    """The pages of a directory, which processes write without knowing who reads."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._directory = SharedDirectory(os.path.abspath(path))  # noqa: PTH100 - keeps links

    def read(self) -> Reading:
        """Return the sums of all pages; those of dead processes have their last numbers."""
        try:
            self._directory.check()
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror or error}") from None
        unix_ns = time.time_ns()
        view = self._directory.read((), None, monotonic(), unix_ns)
        if not view.pages:
            raise SourceError(f"there are no pages in {self.name}")
        return Reading(view.snapshot(unix_ns, {}))


class UrlSource:
    """An exporter, which answers unless a call holds the GIL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._request = urllib.request.Request(_live_url(parts))  # noqa: S310 - http or https, see source_of()
        self.name = self._request.full_url
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = base64.b64encode(user.encode()).decode()
            self._request.add_header("Authorization", f"Basic {credentials}")

    def read(self) -> Reading:
        """Return what the exporter answers."""
        try:
            with urllib.request.urlopen(self._request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
                body = json.loads(answer.read(_MOST_BYTES))
            return Reading(snapshot_of(body), waits_for_work(body))
        except urllib.error.HTTPError as error:
            error.close()
            raise SourceError(f"{self.name} answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise SourceError(f"{self.name} does not answer: {error.reason}") from None
        except OSError as error:
            raise SourceError(f"{self.name} does not answer: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SourceError(f"{self.name} is not an exporter of aiometrics") from None


def source_of(target: str) -> Source:
    """Return the source that ``target`` names: a URL, a directory, or the id of a process.

    Raises ``SourceError`` if it names none.
    """
    if target.isascii() and target.isdecimal():
        return _source_of_process(int(target))
    if "://" not in target and (os.sep in target or Path(target).is_dir()):
        return DirectorySource(target)
    url = target if "://" in target else f"http://{target}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(f"{target!r} is neither a URL, nor a directory, nor a process")
    return UrlSource(url)


def _source_of_process(pid: int) -> Source:
    try:
        directories = directories_of(pid)
        if directories:
            return DirectorySource(directories[0])
        for url in urls_of(pid):
            source = UrlSource(url)
            try:
                source.read()
            except SourceError:
                continue
            return source
    except FileNotFoundError:
        raise SourceError(f"there is no process {pid}") from None
    except OSError as error:
        raise SourceError(f"cannot look at process {pid}: {error.strerror}") from None
    raise SourceError(
        f"process {pid} exports nothing that can be found from here: it shares no pages, and no "
        "port of it answers. Give the URL or the directory of its exporter"
    )


def _live_url(parts: SplitResult) -> str:
    """Return the address of the numbers on the port that a URL names, whatever its path."""
    return parts._replace(
        netloc=parts.netloc.rpartition("@")[2], path=_LIVE, query="", fragment=""
    ).geturl()
