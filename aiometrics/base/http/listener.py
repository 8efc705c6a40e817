"""The listening socket, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from aiometrics.base import fork, unpatched

_BACKLOG = 128


def listen(addr: str, port: int) -> socket.socket:
    """Return a non-blocking socket that listens there, on IPv4 if the name has such an address.

    Raises ``OSError``, with the system's error number and a text that names the fix, if the address
    cannot be bound.
    """
    try:
        # The codec for other names takes longer to import than the server to start.
        host = addr.encode() if addr.isascii() else addr
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda candidate: candidate[0] != socket.AF_INET)
        return _bound(family, address)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot serve metrics on port {port} of {addr!r}: {error.strerror}{_advice(error)}",
        ) from None


def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Accept a client. ``listener.accept()`` would make whatever ``socket.socket`` is by now."""
    make = unpatched.socket_class()
    if type(listener) is not make:  # made before gevent or eventlet came
        return listener.accept()
    descriptor, address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - as socket.accept() does
    return make(listener.family, listener.type, listener.proto, fileno=descriptor), address


def url(addr: str, port: int, *, encrypted: bool) -> str:
    """Return the URL of an address as seen from this machine, without a path.

    If every interface is bound, its host is the loopback address.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(addr, addr)  # noqa: S104 - compared, not bound
    return f"{'https' if encrypted else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            ". Give another port, or port=0 for any free one; "
            "programs started one by one need a port each, or a shared directory"
        )
    if error.errno == errno.EACCES:
        return ". Ports below 1024 need a privilege: give one above, or port=0 for any free one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            ". Give an address of this machine: '0.0.0.0' for all it has, "
            "'127.0.0.1' to be reached from this machine only"
        )
    return ""


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    with fork.creation_lock:
        sock = unpatched.socket_class()(family, socket.SOCK_STREAM)
        # A port is free only when no process listens there, forked children included.
        fork.forget_in_child(sock, fork.Stage.DESCRIPTORS, fork.close)
    try:
        if os.name == "posix":  # on other systems it would let two servers share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock
