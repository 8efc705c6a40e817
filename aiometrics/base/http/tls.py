"""The server's side of TLS: its context, and which client certificates are accepted."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tls:
    """Wraps accepted sockets.

    With ``allowed_sans`` a client's certificate must name one of them, whoever signed it.
    """

    context: ssl.SSLContext
    allowed_sans: frozenset[str] = frozenset()

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return ``sock`` as a socket that speaks TLS after :meth:`shake_hands`, and detach it.

        Raises ``OSError`` if the client is gone.
        """
        # wrap_socket() would raise as well, but Python 3.11 then leaks the descriptor.
        sock.getpeername()
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def shake_hands(self, sock: ssl.SSLSocket) -> None:
        """Do the handshake. Raises ``OSError`` if it fails or the client is not allowed."""
        sock.do_handshake()
        if self.allowed_sans and self.allowed_sans.isdisjoint(_names(sock.getpeercert() or {})):
            raise ssl.SSLCertVerificationError(
                "the client's certificate names none of client_allowed_sans"
            )


def _names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the host names, addresses and URIs of a certificate.

    IP addresses are in their shortest form.
    """
    for kind, name in certificate.get("subjectAltName", ()):
        if kind != "IP Address":
            yield name
            continue
        with suppress(ValueError):  # neither IPv4 nor IPv6
            yield str(ipaddress.ip_address(name.strip()))
