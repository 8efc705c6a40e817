"""The web configuration file: TLS and users, in the format of Prometheus's exporter-toolkit."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiometrics.base.http.basic_auth import BasicAuth
from aiometrics.base.http.tls import Tls

#: Identifies a file and its last change: while it stays the same, the file need not be read again.
#: ``None`` if the file does not exist.
Stamp = tuple[int, ...] | None

_SECTIONS = ("tls_server_config", "basic_auth_users")
_TLS_KEYS = (
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "client_allowed_sans",
    "min_version",
    "max_version",
)
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
#: With a cost above 16 a check takes from seconds to days.
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")
_EXTRA = 'pip install "aiometrics-exporter[web]"'


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The settings of a file; each is ``None`` if the file does not ask for it."""

    tls: Tls | None
    passwords: BasicAuth | None


def load(path: Path, stamps: dict[Path, Stamp]) -> WebConfig:
    """Read a web configuration file and the certificates that it names.

    Each file is entered into ``stamps`` before it is read. Raises ``ValueError`` naming file, key
    and what to do, and ``ModuleNotFoundError`` if a package to read it is missing.
    """
    document = _Section(path, stamps, "", _parsed(path, stamps), _SECTIONS)
    if not document.values:
        raise document.error(
            "has no settings: give it tls_server_config or basic_auth_users, or start without it"
        )
    tls = document.section("tls_server_config", _TLS_KEYS)
    users = document.section("basic_auth_users", None)
    return WebConfig(_tls(tls) if tls else None, _passwords(users) if users else None)


def path_of(name: str) -> Path:
    """Return the absolute path of a file: the process may change its directory later."""
    return Path(os.path.abspath(name))  # noqa: PTH100 - resolve() follows links, which rotate secrets


def stamp(path: Path) -> Stamp:
    """Return the current state of a file, without reading it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class _Section:
    """A mapping in the file, with the name for its error messages.

    Raises ``ValueError`` for keys other than those ``allowed``, if given.
    """

    def __init__(
        self,
        path: Path,
        stamps: dict[Path, Stamp],
        name: str,
        values: object,
        allowed: tuple[str, ...] | None,
    ) -> None:
        self._path = path
        self._stamps = stamps
        self._name = name
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise self.error("must be a mapping of names, quoted if they look like numbers")
        unknown = set() if allowed is None else values.keys() - set(allowed)
        if unknown:
            raise self.error(
                f"has {min(unknown)!r}, which is not supported here: remove it; "
                f"supported are {', '.join(allowed or ())}"
            )
        self.values: Mapping[str, Any] = values

    def section(self, name: str, allowed: tuple[str, ...] | None) -> _Section | None:
        """Return the section of that name, if it exists."""
        return (
            _Section(self._path, self._stamps, name, self.values[name], allowed)
            if name in self.values
            else None
        )

    def error(self, problem: str, key: str = "") -> ValueError:
        """Return the error to raise for this section, or for one of its keys."""
        where = ".".join(name for name in (self._name, key) if name)
        return _error(self._path, f"{where} {problem}" if where else problem)

    def choice(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """Return what the word at ``key``, one of ``choices``, stands for."""
        word = self.values.get(key, default)
        if not isinstance(word, str) or word not in choices:
            raise self.error(f"must be one of {', '.join(choices)}, not {word!r}", key)
        return choices[word]

    def file(self, key: str) -> Path:
        """Return the path of an existing, readable file.

        A relative path starts in the directory of the configuration file.
        """
        name = self.values.get(key)
        if not isinstance(name, str) or not name:
            raise self.error(f"must name a file, not {name!r}", key)
        path = self._path.parent / name
        try:
            _read(path, self._stamps)
        except OSError as error:
            raise self.error(
                f"{_unreadable(path, error)}; "
                "a relative path starts in the directory of the configuration file",
                key,
            ) from None
        return path


def _error(path: Path, problem: str) -> ValueError:
    return ValueError(f"web_config {str(path)!r}: {problem}")


def _unreadable(path: Path, error: OSError) -> str:
    return f"{str(path)!r} cannot be read ({error.strerror}): check the path and who may read it"


def _read(path: Path, stamps: dict[Path, Stamp]) -> bytes:
    stamps[path] = stamp(path)
    return path.read_bytes()


def _parsed(path: Path, stamps: dict[Path, Stamp]) -> object:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"web_config needs PyYAML: {_EXTRA}", name="yaml") from None
    try:
        document = yaml.safe_load(_read(path, stamps))
    except OSError as error:
        raise ValueError(f"web_config {_unreadable(path, error)}") from None
    except yaml.MarkedYAMLError as error:
        # The text of the error would quote the lines around it, secrets included.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _error(path, f"line {line} is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _error(
            path, "is not valid YAML: write it as UTF-8 text, 'key: value' line by line"
        ) from None
    return {} if document is None else document


def _tls(section: _Section) -> Tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION  # clients could ask for it without limit
    context.minimum_version = section.choice("min_version", _VERSIONS, "TLS12")
    context.maximum_version = section.choice("max_version", _VERSIONS, "TLS13")
    if context.minimum_version > context.maximum_version:
        raise section.error("must not be above max_version", "min_version")
    _load_certificate(context, section)
    context.verify_mode = section.choice("client_auth_type", _CLIENT_AUTH, "NoClientCert")
    _load_client_ca(context, section)
    return Tls(context, _allowed_sans(context, section))


def _load_certificate(context: ssl.SSLContext, section: _Section) -> None:
    certificate, key = section.file("cert_file"), section.file("key_file")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, _EncryptedKeyError) as error:
        reason = getattr(error, "reason", "key is encrypted") or "not PEM"
        raise section.error(
            f"has cert_file {str(certificate)!r} and key_file {str(key)!r}, "
            f"which do not belong together ({reason}): "
            "give a certificate chain and its private key, both PEM, the key not encrypted"
        ) from None


class _EncryptedKeyError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKeyError  # OpenSSL would ask at the terminal


def _load_client_ca(context: ssl.SSLContext, section: _Section) -> None:
    if context.verify_mode is ssl.CERT_NONE:
        if "client_ca_file" in section.values:
            raise section.error(
                "must be RequireAndVerifyClientCert for client_ca_file to have any effect",
                "client_auth_type",
            )
        return
    authority = section.file("client_ca_file")
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise section.error(
            f"{str(authority)!r} is not a PEM file of certificates ({error.reason})",
            "client_ca_file",
        ) from None


def _allowed_sans(context: ssl.SSLContext, section: _Section) -> frozenset[str]:
    names = section.values.get("client_allowed_sans", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise section.error(f"must be a list of names, not {names!r}", "client_allowed_sans")
    if names and context.verify_mode is not ssl.CERT_REQUIRED:
        raise section.error(
            "must be RequireAndVerifyClientCert for client_allowed_sans to have any effect",
            "client_auth_type",
        )
    return frozenset(names)


def _passwords(section: _Section) -> BasicAuth:
    """Return the users' hashes.

    Raises ``ValueError`` naming a user whose hash is invalid; the value may be a password and is
    not repeated.
    """
    for user, hashed in section.values.items():
        if not isinstance(hashed, str) or not _BCRYPT.fullmatch(hashed):
            raise section.error(
                "must be a bcrypt hash of cost 4 to 16, "
                "as printed by: htpasswd -nBC 10 '' | tr -d ':\\n'",
                user,
            )
        if ":" in user:
            raise section.error(f"has user {user!r}: HTTP allows no colon in a user name")
    if not section.values:
        raise section.error("must name a user, or be left out if everybody has access")
    try:
        return BasicAuth({user: hashed.encode() for user, hashed in section.values.items()})
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"basic_auth_users needs bcrypt: {_EXTRA}", name="bcrypt"
        ) from None
