"""TLS, client certificates and passwords over real sockets: who gets a response, and who none."""

from __future__ import annotations

import base64
import errno
import http.client
import logging
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import bcrypt
import pytest
import requests
import trustme
from support.serving import (
    GUARD_SECONDS,
    HUGE,
    Answer,
    Serve,
    Stuck,
    ask,
    ask_on,
    connect,
    exchange,
    http_threads,
    open_connections,
    status_line,
)

import aiometrics
from aiometrics.base.http import connections
from aiometrics.base.http.auth import AccessControl
from aiometrics.base.http.server import HttpServer
from aiometrics.base.internal_errors import InternalErrors
from aiometrics.base.options import ServingOptions
from aiometrics.exporter.endpoints import Endpoints
from aiometrics.exporter.sidecar import INFO
from aiometrics.pages.snapshot import Snapshot
from aiometrics.recorder.implementation import IMPLEMENTATIONS

PASSWORD = "wonderland"  # noqa: S105 - a test's
#: With the same salt in every process: it gets into the names of tests.
HASH = bcrypt.hashpw(PASSWORD.encode(), b"$2b$04$" + 22 * b".").decode()
USERS = f"basic_auth_users:\n  alice: {HASH}\n"
TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHALLENGE = 'Basic realm="metrics", charset="UTF-8"'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that signs certificates here."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def directory(authority: trustme.CA, tmp_path: Path) -> Path:
    """A directory with the server's certificate and key, and the authority's certificate."""
    issue(authority, tmp_path)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def issue(authority: trustme.CA, directory: Path, name: str = "127.0.0.1") -> None:
    """Write a new certificate and its key to ``directory``."""
    certificate = authority.issue_cert(name, key_type=trustme.KeyType.ECDSA)
    replace(directory / "cert.pem", certificate.cert_chain_pems[0].bytes())
    replace(directory / "key.pem", certificate.private_key_pem.bytes())


@pytest.fixture
def access_control(directory: Path) -> Callable[[str], AccessControl]:
    """Return ``access_control(text)``, which makes access control from a file of that text."""

    def make(text: str) -> AccessControl:
        path = directory / "web.yml"
        path.write_text(text)
        return AccessControl(path)

    return make


@pytest.fixture
def client(authority: trustme.CA) -> ssl.SSLContext:
    """The client's side of TLS, without a certificate of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def ask_tls(server: HttpServer, context: ssl.SSLContext, path: str = "/") -> Answer:
    """One request over a TLS connection of its own."""
    with closing(
        http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=GUARD_SECONDS, context=context
        )
    ) as connection:
        return ask_on(connection, path)


def basic(user: str, password: str) -> str:
    """Return the ``Authorization`` header of a user."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


# TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    version: ssl.TLSVersion,
) -> None:
    """The connection is kept, and large responses arrive whole."""
    # On a busy machine a large response takes a while.
    server = serve(access_control=access_control(TLS), request_timeout=GUARD_SECONDS)
    client.minimum_version = client.maximum_version = version
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=GUARD_SECONDS, context=client
    )
    with closing(connection):
        assert (200, b"hello\n") == ask_on(connection, "/")[::2]
        assert HUGE == ask_on(connection, "/huge")[2]
        assert 1 == open_connections(server)

    assert f"https://127.0.0.1:{server.port}" == server.url


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("text", [None, TLS], ids=["plain", "TLS"])
def test_a_connection_that_is_cut_raises_no_signal(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    text: str | None,
    implementation: str,
) -> None:
    """A program that wants SIGPIPE for its own output would be ended by it."""
    raised: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: raised.append(number))
    try:
        server = serve(
            access_control=access_control(text) if text else None,
            hand_over=IMPLEMENTATIONS[implementation].hand_over,
        )
        with ExitStack() as stack:
            sock = stack.enter_context(connect(server))
            if text:
                sock = stack.enter_context(client.wrap_socket(sock, server_hostname="127.0.0.1"))
            sock.sendall(GET.replace(b"/", b"/huge", 1))
            assert sock.recv(1)
            server.close()
    finally:
        signal.signal(signal.SIGPIPE, before)

    assert [] == raised


#: A program whose threads are greenlets, and which reads a long response from itself.
GREEN = """
import gevent.monkey; gevent.monkey.patch_all()
import faulthandler, ssl, sys, urllib.request
from pathlib import Path
from aiometrics.base.http.auth import AccessControl
from aiometrics.base.http.server import HttpServer, Response
faulthandler.dump_traceback_later(120, exit=True)
directory = Path(sys.argv[1])
server = HttpServer(
    "127.0.0.1", 0, {"/": lambda request: Response(200, bytes(30_000_000))},
    on_error=print, access_control=AccessControl(directory / "web.yml"), request_timeout=60,
)
server.start()
context = ssl.create_default_context(cafile=directory / "ca.pem")
assert 30_000_000 == len(urllib.request.urlopen(server.url, context=context).read())
server.close()
"""


def test_a_long_response_over_tls_lets_greenlets_run(directory: Path) -> None:
    """Sockets of gevent say that nothing was sent, not that they would block."""
    pytest.importorskip("gevent")
    (directory / "web.yml").write_text(TLS)
    command = [sys.executable, "-W", "ignore", "-c", GREEN, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert 0 == done.returncode, done.stderr


def test_plain_text_gets_no_response_from_tls(
    serve: Serve, access_control: Callable[[str], AccessControl]
) -> None:
    """A client that does not speak TLS is cut, without a response over HTTP."""
    server = serve(access_control=access_control(TLS))
    with connect(server) as sock:
        sock.sendall(GET)
        received = read_all_or_reset(sock)

    assert b"HTTP" not in received
    assert 7 >= len(received)  # an alert of TLS
    assert [] == serve.errors


def test_plain_text_gets_no_refusal_from_tls(
    serve: Serve, access_control: Callable[[str], AccessControl], client: ssl.SSLContext
) -> None:
    """Without room, a client that does not speak TLS is cut, without a refusal over HTTP."""
    stuck = Stuck()
    server = serve(access_control=access_control(TLS), max_connections=1, routes={"/": stuck})
    with client.wrap_socket(connect(server), server_hostname="127.0.0.1") as first:
        first.sendall(GET)
        assert stuck.entered.acquire(timeout=GUARD_SECONDS)
        refusal = exchange(server, b"")
        stuck.leave.set()
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")

    assert b"" == refusal


def read_all_or_reset(sock: socket.socket) -> bytes:
    """Read until the server closes, or resets because it did not read everything."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    return bytes(received)


@pytest.mark.parametrize("text", [TLS, MUTUAL], ids=["TLS", "mutual TLS"])
def test_a_stalled_handshake_is_cut(
    serve: Serve, access_control: Callable[[str], AccessControl], text: str
) -> None:
    """The handshake counts against the first request's deadline."""
    server = serve(access_control=access_control(text), request_timeout=0.05)
    with connect(server) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00")
        # On a busy machine the time may be up before the server reads the first byte.
        assert b"" == read_all_or_reset(sock)

    assert [] == serve.errors


def test_stalled_handshakes_do_not_delay_others(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client gets its response at once despite more stalled handshakes than there is room for."""
    monkeypatch.setattr(connections, "_ROOM_SECONDS", GUARD_SECONDS)
    server = serve(access_control=access_control(TLS), request_timeout=GUARD_SECONDS)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server)).sendall(b"\x16\x03\x01\x02\x00")
        status, _, _ = ask_tls(server, client)

    assert 200 == status
    assert [] == serve.errors


def test_a_reset_in_the_handshake_is_not_an_error(
    serve: Serve, access_control: Callable[[str], AccessControl]
) -> None:
    """Scanners do that all day long."""
    server = serve(access_control=access_control(TLS))
    for data in (b"", b"\x16\x03\x01\x02\x00", os.urandom(100)):
        with connect(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(data)
    server.close()

    assert [] == serve.errors


def test_old_tls_versions_get_no_response(
    serve: Serve, access_control: Callable[[str], AccessControl], client: ssl.SSLContext
) -> None:
    """The minimum version is what the file says."""
    server = serve(access_control=access_control(f"{TLS}  min_version: TLS13\n"))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        ask_tls(server, client)

    assert [] == serve.errors


# Clients' certificates


def test_a_client_with_a_signed_certificate_is_accepted(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    authority: trustme.CA,
) -> None:
    """Any certificate that the authority signed is accepted if the file has no list of names."""
    server = serve(access_control=access_control(MUTUAL))
    authority.issue_cert("anybody.example").configure_cert(client)

    assert 200 == ask_tls(server, client)[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "certificate",
    [None, trustme.CA().issue_cert("prometheus.example")],
    ids=["none", "another authority's"],
)
def test_a_client_without_a_valid_certificate_gets_no_response(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    certificate: trustme.LeafCert | None,
    version: ssl.TLSVersion,
) -> None:
    """Its request is never read."""
    server = serve(access_control=access_control(MUTUAL), routes={"/": serve.unexpected})
    client.maximum_version = version
    if certificate:
        certificate.configure_cert(client)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask_tls(server, client)

    assert [] == serve.errors


NAMES = ["prometheus.example", "10.1.2.3", "2001:db8::1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_with_an_allowed_name_is_accepted(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    authority: trustme.CA,
    name: str,
) -> None:
    """Host names and addresses count, wherever they are in the certificate."""
    server = serve(access_control=access_control(f"{MUTUAL}  client_allowed_sans: {NAMES}\n"))
    authority.issue_cert("other.example", name).configure_cert(client)

    assert 200 == ask_tls(server, client)[0]


@pytest.mark.parametrize(
    "name", ["other.example", "sub.prometheus.example", "*.example", "10.1.2.30", "2001:db8::10"]
)
def test_a_certificate_without_an_allowed_name_gets_no_response(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    authority: trustme.CA,
    name: str,
) -> None:
    """The authority's signature alone is not enough, and no pattern matches."""
    server = serve(
        access_control=access_control(f"{MUTUAL}  client_allowed_sans: {NAMES}\n"),
        routes={"/": serve.unexpected},
    )
    authority.issue_cert(name, common_name=NAMES[0]).configure_cert(client)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask_tls(server, client)

    assert [] == serve.errors


# Passwords


@pytest.mark.parametrize("path", ["/", "/nowhere", "/-/healthy", "/fail"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_without_the_right_password_every_response_is_401(
    serve: Serve, access_control: Callable[[str], AccessControl], path: str, method: str
) -> None:
    """On every path, known or not, for every method and every mistake, the response is the same."""
    server = serve(
        access_control=access_control(USERS),
        routes=dict.fromkeys(["/", "/-/healthy", "/fail"], serve.unexpected),
    )
    wrong = [
        None,
        "",
        "Basic",
        "Bearer abc",
        "Basic %%%",
        basic("alice", ""),
        basic("alice", "x"),
        basic("bob", PASSWORD),
        basic("", ""),
    ]
    for header in wrong:
        status, headers, body = ask(
            server, path, method, **({} if header is None else {"Authorization": header})
        )
        assert (401, CHALLENGE) == (status, headers["WWW-Authenticate"])
        assert (b"" if method == "HEAD" else b"401 Unauthorized\n") == body
        assert {
            "Date",
            "Content-Type",
            "Content-Length",
            "X-Content-Type-Options",
            "WWW-Authenticate",
            "Connection",
        } == set(headers)

    assert [] == serve.errors


def test_with_the_right_password_the_routes_answer(
    serve: Serve, access_control: Callable[[str], AccessControl]
) -> None:
    """The routes answer, 404 and 405 included; a second request does not cost bcrypt again."""
    server = serve(access_control=access_control(USERS))
    header = basic("alice", PASSWORD)

    assert [200, 200, 404, 405] == [
        ask(server, path, method, Authorization=header)[0]
        for path, method in [("/", "GET"), ("/", "HEAD"), ("/nowhere", "GET"), ("/", "POST")]
    ]


def test_every_request_of_a_connection_is_authorized(
    serve: Serve, access_control: Callable[[str], AccessControl]
) -> None:
    """Each request needs its own password: a proxy may share a connection among clients."""
    server = serve(access_control=access_control(USERS))
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        headers = [
            {"Authorization": basic("alice", PASSWORD)},
            {},
            {"Authorization": basic("alice", PASSWORD)},
        ]
        statuses = [ask_on(connection, "/", "GET", None, **each)[0] for each in headers]

    assert [200, 401, 200] == statuses


def test_the_number_of_bcrypt_checks_is_limited(
    serve: Serve, access_control: Callable[[str], AccessControl], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four guesses are accepted at a time and checked one by one; the next has to retry.

    A user who is verified already passes them all.
    """
    entered, leave, at_work = threading.Semaphore(0), threading.Event(), []

    def check(_: bytes, __: bytes) -> bool:
        at_work.append(threading.current_thread())
        entered.release()
        assert leave.wait(GUARD_SECONDS)
        return False

    right = bcrypt.checkpw
    monkeypatch.setattr(
        bcrypt,
        "checkpw",
        lambda password, hashed: right(password, hashed) if password else check(password, hashed),
    )
    server = serve(access_control=access_control(USERS))
    assert 200 == ask(server, "/", Authorization=basic("alice", PASSWORD))[0]
    with ExitStack() as stack:
        guesses = [stack.enter_context(connect(server)) for _ in range(5)]
        for sock in guesses:
            sock.sendall(
                f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {basic('alice', '')}\r\n\r\n".encode()
            )
        refused = first_response(guesses)
        assert entered.acquire(timeout=GUARD_SECONDS)
        one_at_a_time = len(at_work)
        known, _, _ = ask(server, "/", Authorization=basic("alice", PASSWORD))
        leave.set()
        others = [sock.recv(1 << 16) for sock in guesses if sock is not refused[0]]

    assert 1 == one_at_a_time
    assert "HTTP/1.1 503 Service Unavailable" == status_line(refused[1])
    assert 200 == known
    assert ["HTTP/1.1 401 Unauthorized"] * 4 == [status_line(answer) for answer in others]


def first_response(socks: list[socket.socket]) -> tuple[socket.socket, bytes]:
    """Return the first of these clients that gets a response, and the response."""
    (sock, *_), _, _ = select.select(socks, [], [], GUARD_SECONDS)
    return sock, sock.recv(1 << 16)


def test_bcrypt_releases_the_gil() -> None:
    """Python code, such as the application's loop, runs while a password is hashed.

    The switch interval is so long that bcrypt itself must release the GIL.
    """
    go, ran, tries = threading.Event(), [], 0
    thread = threading.Thread(target=lambda: ran.append(go.wait(GUARD_SECONDS)))
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        go.set()
        while not ran and tries < 200:
            bcrypt.checkpw(b"x", HASH.replace("$04$", "$09$").encode())
            tries += 1
    finally:
        sys.setswitchinterval(interval)
    thread.join()

    assert 200 > tries


# Changes


def change(path: Path, text: str) -> None:
    """Replace a file by a new one, as tools that manage secrets do."""
    replace(path, text.encode())


def replace(path: Path, content: bytes) -> None:
    """Replace a file by another one: a system may not tell two writes of one moment apart."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_users_change_with_the_file(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    directory: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From the next request on, removed users are refused and new ones accepted.

    That holds for an open connection, too.
    """
    server = serve(access_control=access_control(USERS))
    with closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=GUARD_SECONDS)
    ) as connection:
        assert 200 == ask_on(connection, "/", Authorization=basic("alice", PASSWORD))[0]
        change(directory / "web.yml", USERS.replace("alice", "bob"))

        assert 401 == ask_on(connection, "/", Authorization=basic("alice", PASSWORD))[0]
        assert 200 == ask_on(connection, "/", Authorization=basic("bob", PASSWORD))[0]
    assert [] == caplog.records


def test_certificates_change_with_their_files(
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    authority: trustme.CA,
    directory: Path,
) -> None:
    """A renewed certificate is used from the next connection on, without a restart."""
    server = serve(access_control=access_control(TLS))
    before = ssl.get_server_certificate(("127.0.0.1", server.port))
    issue(authority, directory)
    after = ssl.get_server_certificate(("127.0.0.1", server.port))

    assert (directory / "cert.pem").read_text() == after != before
    assert 200 == ask_tls(server, client)[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("web.yml", "", "has no settings"),
        ("web.yml", TLS, "restart the process to begin or to end passwords"),
        ("web.yml", USERS, "restart the process to begin or to end tls"),
        ("web.yml", f"{TLS}{USERS}  bob: hunter2", "basic_auth_users.bob must be a bcrypt hash"),
        ("key.pem", "", "do not belong together"),
    ],
    ids=["empty", "without users", "without TLS", "a password", "no key"],
)
def test_an_invalid_change_leaves_everything_as_it_was(  # noqa: PLR0917 - fixtures and a table
    serve: Serve,
    access_control: Callable[[str], AccessControl],
    client: ssl.SSLContext,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    text: str,
    message: str,
) -> None:
    """It is logged once and opens no access; when it is corrected, the new state takes effect."""
    server = serve(access_control=access_control(TLS + USERS))
    before = (directory / name).read_text()
    change(directory / name, text)
    session = requests.Session()
    session.trust_env = False  # authorities of the environment would take precedence
    session.verify = str(directory / "ca.pem")
    statuses = [
        session.get(server.url, auth=auth, timeout=GUARD_SECONDS).status_code
        for auth in (None, ("alice", PASSWORD))
    ]
    change(directory / name, before)
    statuses.append(
        session.get(server.url, auth=("alice", PASSWORD), timeout=GUARD_SECONDS).status_code
    )
    session.close()

    assert [401, 200, 200] == statuses
    ((_, level, logged),) = caplog.record_tuples
    assert logging.ERROR == level
    assert logged.startswith("aiometrics: web_config ")
    assert message in logged
    assert logged.endswith("; the previous configuration stays in force")
    assert "hunter2" not in logged
    assert 401 == ask_tls(server, client)[0]


def test_a_file_that_vanishes_while_it_is_read_changes_nothing(
    access_control: Callable[[str], AccessControl],
    authority: trustme.CA,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Secrets are often replaced file by file: clients are not turned away at that moment."""

    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    access = access_control(TLS)
    before = access.tls()
    issue(authority, directory)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ssl.SSLContext, "load_cert_chain", gone)
        assert before is access.tls()
    (line,) = caplog.messages
    assert line.endswith("No such file or directory; the previous configuration stays in force")
    issue(authority, directory)
    assert before is not access.tls()


# The exporter


def test_the_exporter_has_tls_and_passwords(
    access_control: Callable[[str], AccessControl], directory: Path
) -> None:
    """``web_config`` gives the exporter TLS and passwords on all its paths."""
    access_control(TLS + USERS)
    with aiometrics.start_exporter(
        0, "127.0.0.1", web_config=directory / "web.yml", registry=None
    ) as exporter:
        assert exporter.url.startswith("https://127.0.0.1:")
        base = exporter.url.removesuffix("/metrics")
        verify = str(directory / "ca.pem")
        paths = ("/", "/metrics", "/-/healthy", "/nowhere")
        denied = [
            requests.get(base + path, verify=verify, timeout=GUARD_SECONDS).status_code
            for path in paths
        ]
        auth = ("alice", PASSWORD)
        allowed = [
            requests.get(base + path, verify=verify, auth=auth, timeout=GUARD_SECONDS).status_code
            for path in paths
        ]

    assert [401] * 4 == denied
    assert [200, 200, 200, 404] == allowed


def test_a_standby_process_knows_its_address(
    access_control: Callable[[str], AccessControl], directory: Path
) -> None:
    """While another process has the port, the URL has the requested address and https."""
    access_control(TLS)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ServingOptions(port=port, addr="localhost", web_config=str(directory / "web.yml"))
        endpoints = Endpoints(options, lambda _=None: Snapshot(0), None, InternalErrors(), INFO)
        assert not endpoints.try_to_bind()

    assert f"https://localhost:{port}/metrics" == endpoints.url


def test_an_invalid_file_starts_nothing(directory: Path) -> None:
    """The error comes before anything is installed; another attempt succeeds."""
    with pytest.raises(ValueError, match=r"web\.yml' cannot be read"):
        aiometrics.start_exporter(0, "127.0.0.1", web_config=str(directory / "web.yml"))
    assert [] == http_threads()
    with aiometrics.start_exporter(0, "127.0.0.1", registry=None) as exporter:
        assert exporter.url.startswith("http://")
