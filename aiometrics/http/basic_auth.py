"""Basic authentication: credentials from a header, and passwords against their bcrypt hashes, at a cost that strangers cannot drive up."""

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
#: What bcrypt can tell apart; every implementation of it ignores the rest, if it does not refuse it.
_BCRYPT_BYTES = 72
#: Checks at a time, one at work and the others waiting for it: more would hold the threads that answer everybody else.
_MAX_CHECKS = 4


class TooManyChecks(Exception):  # noqa: N818 - no error of anybody's, but a state
    """So many passwords are being checked that this one has to come again."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client says of itself."""

    user: str
    password: bytes

    @classmethod
    def of(cls, header: str | None) -> Credentials | None:
        """The credentials in an ``Authorization`` header, ``None`` if there are none that make sense. Never raises."""
        match = _BASIC.fullmatch(header or "")
        if match is None:
            return None
        try:
            user, colon, password = base64.b64decode(match[1], validate=True).partition(b":")
            return cls(user.decode(), password) if colon else None
        except (binascii.Error, UnicodeDecodeError):
            return None


class BasicAuth:
    """The bcrypt hashes of some users' passwords.

    A password that was right is remembered, as a digest, so that a scraper pays for bcrypt once. All others pay, users that do not
    exist too, one after the other. bcrypt works without the interpreter's lock.
    """

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        # An extra, of which only who has users needs anything.
        import bcrypt  # noqa: PLC0415

        self._matches = bcrypt.checkpw
        self._hashes = hashes
        self._decoy = max(hashes.values(), key=_cost)
        self._key = secrets.token_bytes()
        self._known: dict[str, bytes] = {}
        self._at_work = threading.Lock()
        self._places = threading.BoundedSemaphore(_MAX_CHECKS)

    def accept(self, credentials: Credentials) -> bool:
        """Whether user and password belong together. Raises :class:`TooManyChecks`."""
        digest = hmac.digest(self._key, credentials.password, "sha256")
        if hmac.compare_digest(self._known.get(credentials.user, b""), digest):
            return True
        if not self._check(credentials):
            return False
        self._known[credentials.user] = digest
        return True

    def _check(self, credentials: Credentials) -> bool:
        if not self._places.acquire(blocking=False):
            raise TooManyChecks
        try:
            with self._at_work:
                hashed = self._hashes.get(credentials.user)
                matches = self._matches(credentials.password[:_BCRYPT_BYTES], hashed or self._decoy)
        except ValueError:  # a zero byte, of which some versions of bcrypt make none
            return False
        finally:
            self._places.release()
        return matches and hashed is not None


def _cost(hashed: bytes) -> bytes:
    """The two digits in ``$2b$10$...``."""
    return hashed[4:6]
