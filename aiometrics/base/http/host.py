"""Tells by its ``Host`` header whether a request was meant for this machine."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit


def is_loopback(address: str) -> bool:
    """Return whether only this machine can connect to an address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    # Before Python 3.13 an IPv4 address in one of IPv6 is not looked at.
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def names_this_machine(host: str | None) -> bool:
    """Return whether a ``Host`` header can be that of a client that means this machine.

    A page in a browser can have the name of its own site answered with the address 127.0.0.1, and
    then read a port of this machine as if it were that site. The browser still sends the name, so
    no address, no name without a dot and no name of this machine can be part of such an attack.
    """
    if not host:
        return True
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if "." not in name or name.endswith(".localhost"):
        return True
    return _is_address(name) or name == socket.gethostname().lower()


@lru_cache(maxsize=16)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
