"""HTTP/1.1 messages: parses requests and encodes responses, without reading or writing a socket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from aiometrics.base.unpatched import unix_ns

#: Limits of a request, in bytes and header lines. Prometheus stays far below, with a head of 300
#: bytes.
MAX_REQUEST_LINE = 4096
MAX_HEAD = 16384
MAX_HEADERS = 64
MAX_BODY = 65536

HEAD_END = b"\r\n\r\n"

_METHOD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _METHOD)
_REQUEST_LINE_SO_FAR = re.compile(rb"[\x20-\x7e]*")
_FIELD = re.compile(rb"(%s):([\t\x20-\x7e\x80-\xff]*)" % _METHOD)
_ABSOLUTE_TARGET = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")


class Request(NamedTuple):
    """A request as routes see it.

    ``path`` is decoded, ``query`` is not. ``headers`` have lower-case names; repeated ones are
    joined.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """A response. The server adds headers for length, date, compression and connection."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class Head(NamedTuple):
    """A parsed request, the length of its body, and whether the connection may be used again."""

    request: Request
    body_length: int
    keep_alive: bool


class RequestError(Exception):
    """A request that is refused with ``status``; its connection cannot be used again."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


def plain(status: int, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a response whose body is one line with ``status`` and its phrase."""
    return Response(status, f"{status} {HTTPStatus(status).phrase}\n".encode(), headers=headers)


def check_start(received: bytes | bytearray) -> None:
    """Check the beginning of a head, to refuse hopeless requests before they are complete.

    Raises ``RequestError`` with status 400, 505, 414 or 431, as :func:`parse_head`.
    """
    line, newline, _ = received.partition(b"\n")
    line = line.removesuffix(b"\r")
    if len(line) > MAX_REQUEST_LINE:
        raise RequestError(HTTPStatus.REQUEST_URI_TOO_LONG)
    if newline:
        _parse_request_line(line)
    elif not _REQUEST_LINE_SO_FAR.fullmatch(line):
        raise RequestError(HTTPStatus.BAD_REQUEST)
    if len(received) > MAX_HEAD:
        raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def parse_head(received: bytes | bytearray) -> Head:
    """Parse the head of a request, including the empty line that ends it.

    Raises ``RequestError``: 400 if it is not HTTP/1, 505 for another version, 414 and 431 if it
    exceeds a limit; and for its body, 411 without a length, 413 if it is too long, 417 if the
    client waits to be asked for it.
    """
    check_start(received)
    line, *fields = received.removesuffix(HEAD_END).split(b"\r\n")
    method, target, minor = _parse_request_line(line)
    headers = _parse_fields(fields)
    if minor and "host" not in headers:
        raise RequestError(HTTPStatus.BAD_REQUEST)
    path, _, query = _ABSOLUTE_TARGET.sub("", target, count=1).partition("?")
    request = Request(method, unquote(path) or "/", query, headers)
    return Head(request, _body_length(headers), _keep_alive(minor, headers))


def encode(response: Response, *, keep_alive: bool, with_body: bool = True) -> tuple[bytes, bytes]:
    """Return head and body of ``response``; without its body, its headers are still complete.

    They are not joined, as a long body would be copied.
    """
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Date: {formatdate(unix_ns() / 1e9, usegmt=True)}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in response.headers),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    head = "\r\n".join(lines).encode("latin-1") + HEAD_END
    return head, response.body if with_body else b""


def _parse_request_line(line: bytes | bytearray) -> tuple[str, str, int]:
    """Return method, target and the minor version of HTTP/1."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise RequestError(HTTPStatus.BAD_REQUEST)
    method, target, major, minor = (group.decode("ascii") for group in match.groups())
    if major != "1":
        raise RequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    return method, target, int(minor)


def _parse_fields(lines: list[bytes] | list[bytearray]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise RequestError(HTTPStatus.BAD_REQUEST)
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1").strip(" \t")
        if name == "host" and name in headers:
            raise RequestError(HTTPStatus.BAD_REQUEST)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise RequestError(HTTPStatus.LENGTH_REQUIRED)
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise RequestError(HTTPStatus.BAD_REQUEST)
    if int(length) > MAX_BODY:
        raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if "expect" in headers:
        raise RequestError(HTTPStatus.EXPECTATION_FAILED)
    return int(length)


def _keep_alive(minor: int, headers: Mapping[str, str]) -> bool:
    options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    return "close" not in options if minor else "keep-alive" in options
