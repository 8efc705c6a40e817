"""The web configuration file: what is accepted, what is refused, and how.

Error messages never repeat secrets.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import pytest
import trustme

from aiometrics.base.http.basic_auth import BasicAuth, Credentials
from aiometrics.base.http.web_config import Stamp, WebConfig, load, path_of, stamp

#: Of the password "wonderland", at the lowest cost, as htpasswd writes it.
ALICE = "$2y$04$F/VBDtC5NVcJ3l4dPWh8Y.A/mmAstek/bHF.eEzU.TwRJNCLxeh7."
TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that signs certificates here."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def directory(authority: trustme.CA, tmp_path: Path) -> Path:
    """A directory with a certificate, its key, the authority's certificate, and other files."""
    certificate = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(tmp_path / "other.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "text.pem").write_text("hello\n")
    return tmp_path


def read(directory: Path, text: str) -> WebConfig:
    """Load a file of that text in ``directory``."""
    path = directory / "web.yml"
    path.write_text(text)
    return load(path, {})


def test_tls_with_every_setting(directory: Path) -> None:
    """Files, client authentication, names and versions reach the context.

    Relative paths start in the directory of the file.
    """
    tls = read(
        directory,
        f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n"
        f"  client_ca_file: {directory}/ca.pem\n"
        "  client_allowed_sans: [prometheus.example, 10.0.0.1]\n"
        "  min_version: TLS13\n  max_version: TLS13\n",
    ).tls

    assert tls is not None
    assert (ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3) == (
        tls.context.verify_mode,
        tls.context.minimum_version,
        tls.context.maximum_version,
    )
    assert frozenset({"prometheus.example", "10.0.0.1"}) == tls.allowed_sans


def test_the_defaults_of_tls(directory: Path) -> None:
    """Clients need no certificate, the minimum is TLS 1.2, and renegotiation is off."""
    config = read(directory, TLS)

    assert config.passwords is None
    assert config.tls is not None
    context = config.tls.context
    assert (ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) == (
        context.verify_mode,
        context.minimum_version,
        context.maximum_version,
    )
    assert ssl.OP_NO_RENEGOTIATION & context.options


def test_users_without_tls(tmp_path: Path) -> None:
    """Passwords work without TLS, for use behind a proxy that has it."""
    config = read(tmp_path, f"basic_auth_users:\n  alice: {ALICE}\n")

    assert config.tls is None
    assert config.passwords is not None


def test_every_file_is_stamped(directory: Path) -> None:
    """Every file of the configuration has a stamp, so that a change can be seen."""
    path = directory / "web.yml"
    stamps: dict[Path, Stamp] = {}
    path.write_text(f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n")
    load(path, stamps)

    expected = {
        directory / name: stamp(directory / name)
        for name in ("web.yml", "cert.pem", "key.pem", "ca.pem")
    }
    assert expected == stamps
    assert None not in stamps.values()
    assert stamp(directory / "nothing") is None


CLIENTS = "must be RequireAndVerifyClientCert for"
HASH = "must be a bcrypt hash of cost 4 to 16, as printed by: htpasswd -nBC 10 '' | tr -d ':\\n'"
NAMES = "must be a mapping of names, quoted if they look like numbers"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "has no settings: give it tls_server_config or basic_auth_users, or start without it",
        ),
        ("hello", NAMES),
        ("[1]", NAMES),
        ("a: [", "line 1 is not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "line 1 is not valid YAML: mapping values are not allowed here"),
        ("a: \0", "is not valid YAML: write it as UTF-8 text, 'key: value' line by line"),
        ("[" * 1000, "is not valid YAML: write it as UTF-8 text, 'key: value' line by line"),
        (
            "tls: {}",
            (
                "has 'tls', which is not supported here: remove it; "
                "supported are tls_server_config, basic_auth_users"
            ),
        ),
        ("tls_server_config:", f"tls_server_config {NAMES}"),
        (
            "tls_server_config: {cert: x}",
            (
                "tls_server_config has 'cert', which is not supported here: remove it; "
                "supported are cert_file, "
            ),
        ),
        ("tls_server_config: {}", "tls_server_config.cert_file must name a file, not None"),
        (
            "tls_server_config: {cert_file: 5}",
            "tls_server_config.cert_file must name a file, not 5",
        ),
        (
            "tls_server_config: {cert_file: cert.pem}",
            "tls_server_config.key_file must name a file, not None",
        ),
        (
            "tls_server_config: {cert_file: none.pem}",
            "none.pem' cannot be read (No such file or directory): check the path and who may",
        ),
        ("tls_server_config: {cert_file: ..}", "cannot be read (Is a directory)"),
        (
            "tls_server_config: {cert_file: cert.pem, key_file: other.pem}",
            "which do not belong together (KEY_VALUES_MISMATCH): give a cert",
        ),
        (
            "tls_server_config: {cert_file: text.pem, key_file: key.pem}",
            "which do not belong together (not PEM): give a cert",
        ),
        (
            f"{TLS}  min_version: TLS11",
            "tls_server_config.min_version must be one of TLS12, TLS13, not 'TLS11'",
        ),
        (
            f"{TLS}  min_version: [TLS12]",
            "tls_server_config.min_version must be one of TLS12, TLS13, not ['TLS12']",
        ),
        (
            f"{TLS}  min_version: TLS13\n  max_version: TLS12",
            "tls_server_config.min_version must not be above max_version",
        ),
        (
            f"{TLS}  client_auth_type: RequireAnyClientCert",
            "tls_server_config.client_auth_type must be one of NoClientCert, Verify",
        ),
        (
            f"{TLS}  client_auth_type: RequireAndVerifyClientCert",
            "tls_server_config.client_ca_file must name a file, not None",
        ),
        (
            f"{TLS}  client_ca_file: ca.pem",
            f"tls_server_config.client_auth_type {CLIENTS} client_ca_file to have any effect",
        ),
        (
            f"{TLS}  client_allowed_sans: [a]",
            f"tls_server_config.client_auth_type {CLIENTS} client_allowed_sans to have any effect",
        ),
        (
            f"{TLS}  client_allowed_sans: a",
            "tls_server_config.client_allowed_sans must be a list of names, not 'a'",
        ),
        (
            f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: text.pem",
            "text.pem' is not a PEM file of certificates (NO_CERTIFICATE_OR_CRL_FOUND)",
        ),
        ("basic_auth_users:", f"basic_auth_users {NAMES}"),
        (
            "basic_auth_users: {}",
            "basic_auth_users must name a user, or be left out if everybody has access",
        ),
        (f"basic_auth_users: {{5: {ALICE}}}", f"basic_auth_users {NAMES}"),
        (
            f"basic_auth_users: {{'a:b': {ALICE}}}",
            "basic_auth_users has user 'a:b': HTTP allows no colon in a user name",
        ),
        ("basic_auth_users: {bob: 5}", f"basic_auth_users.bob {HASH}"),
    ],
)
def test_invalid_settings_are_refused(directory: Path, text: str, message: str) -> None:
    """The error names the file, the key, and what to do."""
    with pytest.raises(ValueError, match=r"^web_config '") as caught:
        read(directory, text)

    assert str(directory / "web.yml") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "hashed",
    [
        "hunter2",
        "$2y$04$hunter2",
        ALICE.replace("04", "17"),
        ALICE.replace("04", "03"),
        ALICE[:-1],
        f"{ALICE}x",
    ],
)
def test_a_possible_password_is_not_quoted(directory: Path, hashed: str) -> None:
    """A password in place of its hash is an error, and does not get into the log."""
    with pytest.raises(ValueError, match="bcrypt hash") as caught:
        read(directory, f"basic_auth_users: {{alice: '{hashed}'}}")

    assert hashed not in str(caught.value)
    assert "basic_auth_users.alice" in str(caught.value)


def test_invalid_yaml_is_not_quoted(directory: Path) -> None:
    """The parser's error would quote the lines around it; ours does not."""
    with pytest.raises(ValueError, match="line 4 is not valid YAML") as caught:
        read(directory, f"basic_auth_users:\n  alice: {ALICE}\n  bob hunter2\n")

    assert "hunter2" not in str(caught.value)
    assert ALICE not in str(caught.value)


def test_an_encrypted_key_is_refused(directory: Path, authority: trustme.CA) -> None:
    """A service does not ask for the key's password on its terminal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(*formats, encryption))
    with pytest.raises(ValueError, match="key is encrypted"):
        read(directory, TLS)


@pytest.mark.parametrize(("package", "name"), [("yaml", "PyYAML"), ("bcrypt", "bcrypt")])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf'needs {name}: pip install "aiometrics-exporter\[web\]"'
    ) as caught:
        read(tmp_path, f"basic_auth_users: {{alice: {ALICE}}}")

    assert package == caught.value.name


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The configuration file itself may be missing."""
    with pytest.raises(ValueError, match=r"web_config '.*web\.yml' cannot be read"):
        load(tmp_path / "web.yml", {})


def test_a_relative_path_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that changes its directory reads the same file again; links are not resolved."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.yml").symlink_to("data.yml")

    assert tmp_path / "web.yml" == path_of("web.yml")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic YWxpY2U6d29uZGVybGFuZA==", Credentials("alice", b"wonderland")),
        ("bAsIc  YWxpY2U6d29uZGVybGFuZA==", Credentials("alice", b"wonderland")),
        ("Basic YTpiOmM=", Credentials("a", b"b:c")),
        ("Basic Og==", Credentials("", b"")),
        (None, None),
        ("", None),
        ("Basic", None),
        ("Basic ", None),
        ("Bearer YWxpY2U6d29uZGVybGFuZA==", None),
        ("Basic YWxpY2U6d29uZGVybGFuZA", None),
        ("Basic YWxpY2U6d29uZGVybGFuZA===", None),
        ("Basic YWxpY2U=", None),
        ("Basic /zph", None),
        ("Basic YTpi, Basic YTpi", None),
        ("Basic a\xe4", None),
    ],
)
def test_credentials(header: str | None, expected: Credentials | None) -> None:
    """A valid header gives user and password; any other header gives none."""
    assert expected == Credentials.of(header)


def test_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct password is accepted every time; a wrong one never, and it always costs bcrypt."""
    import bcrypt

    checked: list[bytes] = []

    def check(password: bytes, hashed: bytes) -> bool:
        checked.append(hashed)
        return right(password, hashed)

    right = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", check)
    long = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(5))
    passwords = BasicAuth({"alice": ALICE.encode(), "bob": long})
    asked = [
        ("alice", b"wonderland", True),
        ("alice", b"wonderland", True),
        ("alice", b"builder", False),
        ("alice", b"", False),
        ("alice", b"wonderland\0", False),
        ("alice", b"wonderland", True),
        ("bob", b"wonderland", False),
        ("bob", b"x" * 80, True),
        ("nobody", b"x" * 72, False),
        ("", b"", False),
    ]
    assert [accepted for *_, accepted in asked] == [
        passwords.accept(Credentials(user, password)) for user, password, _ in asked
    ]
    assert [*[ALICE.encode()] * 4, *[long] * 4] == checked
