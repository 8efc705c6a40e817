"""Basic authentication against bcrypt hashes, at a cost that strangers cannot drive up."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+=*)", re.IGNORECASE)
#: bcrypt uses no more of a password; every implementation ignores the rest or refuses it.
_BCRYPT_BYTES = 72
#: Checks at a time, one running and the others waiting: more would hold the threads that answer
#: other clients.
_MAX_CHECKS = 4


class TooManyChecks(Exception):  # noqa: N818 - a state rather than an error
    """So many passwords are being checked that the client has to retry."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The user and password that a client sent."""

    user: str
    password: bytes

    @classmethod
    def of(cls, header: str | None) -> Credentials | None:
        """Parse an ``Authorization`` header; ``None`` without valid credentials. Never raises."""
        match = _BASIC.fullmatch(header or "")
        if match is None:
            return None
        try:
            user, colon, password = base64.b64decode(match[1], validate=True).partition(b":")
            return cls(user.decode(), password) if colon else None
        except (binascii.Error, UnicodeDecodeError):
            return None


class BasicAuth:
    """The bcrypt hashes of users' passwords.

    A correct password is remembered, as a digest, so that a scraper pays for bcrypt once. All other
    attempts pay, also for users that do not exist, and are checked one after the other. bcrypt
    releases the GIL.
    """

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        # An extra that is needed only where there are users.
        import bcrypt  # noqa: PLC0415

        self._matches = bcrypt.checkpw
        self._hashes = hashes
        self._dummy_hash = max(hashes.values(), key=_cost)
        self._key = secrets.token_bytes()
        self._verified: dict[str, bytes] = {}
        self._checking = threading.Lock()
        self._check_slots = threading.BoundedSemaphore(_MAX_CHECKS)

    def accept(self, credentials: Credentials) -> bool:
        """Whether user and password belong together. Raises :class:`TooManyChecks`."""
        digest = hmac.digest(self._key, credentials.password, "sha256")
        if hmac.compare_digest(self._verified.get(credentials.user, b""), digest):
            return True
        if not self._check(credentials):
            return False
        self._verified[credentials.user] = digest
        return True

    def _check(self, credentials: Credentials) -> bool:
        if not self._check_slots.acquire(blocking=False):
            raise TooManyChecks
        try:
            with self._checking:
                hashed = self._hashes.get(credentials.user)
                matches = self._matches(
                    credentials.password[:_BCRYPT_BYTES], hashed or self._dummy_hash
                )
        except ValueError:  # some versions of bcrypt refuse a zero byte
            return False
        finally:
            self._check_slots.release()
        return matches and hashed is not None


def _cost(hashed: bytes) -> bytes:
    """Return the two digits in ``$2b$10$...``."""
    return hashed[4:6]
