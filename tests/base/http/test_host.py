"""Which ``Host`` headers reach a port that only this machine can connect to."""

from __future__ import annotations

import http.client
import socket

import pytest
from support.serving import Serve

from aiometrics.base.http.host import is_loopback, names_this_machine


def status(port: int, host: str, path: str = "/") -> int:
    """The status of a response to a request with that header."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("GET", path, headers={"Host": host})
    found = client.getresponse().status
    client.close()
    return found


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9400",
        "LOCALHOST.",
        "shop.localhost",
        "127.0.0.1:9400",
        "[::1]:9400",
        "10.1.2.3",
        "prometheus-exporter",
        socket.gethostname(),
        "",
    ],
)
def test_clients_that_mean_this_machine_are_answered(serve: Serve, host: str) -> None:
    """An address cannot be rebound, and a name without a dot is of no site."""
    assert 200 == status(serve().port, host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9400", "localhost.evil.example", "["]
)
def test_a_page_of_another_site_cannot_read_the_port(serve: Serve, host: str) -> None:
    """A browser that was given 127.0.0.1 for the name of a site still sends the name."""
    assert 421 == status(serve().port, host)


def test_other_interfaces_are_not_guarded_by_names(serve: Serve) -> None:
    """There the network decides, and names are those of proxies and services."""
    assert 200 == status(serve("0.0.0.0").port, "shop.example")  # noqa: S104 - as in containers


def test_a_request_without_the_header_is_answered() -> None:
    """As of HTTP/1.0, which no browser speaks."""
    assert names_this_machine(None)


def test_a_slash_at_the_end_of_a_path_does_not_matter(serve: Serve) -> None:
    """People type it, and some tools add it."""
    assert [200, 200, 404] == [
        status(serve().port, "localhost", path) for path in ("/long", "/long/", "/long/more")
    ]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.2", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - it is not bound
        ("::", False),
        ("shop.example", False),
    ],
)
def test_addresses_of_this_machine_alone_are_known(address: str, expected: bool) -> None:  # noqa: FBT001 - a parameter
    """Also that of IPv4 as IPv6 writes it."""
    assert expected == is_loopback(address)
