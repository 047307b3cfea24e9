"""API keys: 256 random bits, of which only a hash is kept.

A fast hash is right here: it makes passwords guessable because people choose them from few, and nobody can try the
2**256 keys there are. A slow one would let anybody burn the service's CPU with wrong keys. The key's id salts the
hash, so equal hashes tell nothing and a line cannot be moved to another id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from runwire import clock
from runwire.errors import ConfigurationError, Unauthenticated
from runwire.model.run import DEFAULT_TENANT
from runwire.server.auth.caller import Caller, Scope, is_tenant
from runwire.server.auth.keys_file import KeysFile

PREFIX: Final = "rwk_"
"""The prefix of keys, by which scanners find leaked secrets."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The stored record of a key."""

    key_id: str
    digest: str
    tenant: str
    scopes: frozenset[Scope]
    expires_at: float | None
    name: str

    @property
    def line(self) -> str:
        """For `RUNWIRE_KEYS` or the keys file."""
        facts = [f"tenant={self.tenant}", f"scopes={','.join(sorted(self.scopes))}"]
        if self.expires_at is not None:
            facts.append(f"expires={datetime.fromtimestamp(self.expires_at, UTC):%Y-%m-%dT%H:%M:%SZ}")
        if self.name:
            facts.append(f"name={self.name}")
        return " ".join([self.key_id, f"sha256:{self.digest}", *facts])


def new_key(
    *, tenant: str, scopes: Iterable[Scope], expires_at: float | None = None, name: str = ""
) -> tuple[str, KeyRecord]:
    """A new key, which is shown once, and its record. Raises ValueError for an invalid tenant or name."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    record = KeyRecord(key_id, _digest(key_id, secret), tenant, frozenset(scopes), expires_at, name)
    if name and name.split() != [name]:
        raise ValueError("a key's name must not have spaces")
    if parse_line(record.line) != record:
        raise ValueError("a key must expire on a whole second")
    return f"{PREFIX}{key_id}_{secret}", record


def parse_line(line: str) -> KeyRecord:
    """Raises ValueError, whose text says what is wrong and does not quote the line."""
    key_id, _, rest = line.strip().partition(" ")
    words = rest.split()
    facts = dict(word.partition("=")[::2] for word in words[1:])
    if not key_id.isalnum() or not words or not re.fullmatch(r"sha256:[0-9a-f]{64}", words[0]):
        raise ValueError("a key's line must begin with its id and `sha256:` with 64 hexadecimal digits")
    if wrong := facts.keys() - {"tenant", "scopes", "expires", "name"}:
        raise ValueError(f"there is no {', '.join(sorted(wrong))} in a key's line")
    tenant = facts.get("tenant", DEFAULT_TENANT)
    if not is_tenant(tenant):
        raise ValueError("a tenant must be 1 to 100 of A-Za-z0-9._@|-")
    scopes = frozenset(Scope(word) for word in facts.get("scopes", "").split(",") if word)
    expires = facts.get("expires")
    expires_at = None if expires is None else datetime.fromisoformat(expires).timestamp()
    return KeyRecord(key_id, words[0].removeprefix("sha256:"), tenant, scopes, expires_at, facts.get("name", ""))


class KeyRing:
    """The keys that a service knows. It reads a changed file again, and keeps the old keys when that fails."""

    def __init__(self, lines: Iterable[str] = (), *, file: Path | None = None) -> None:
        """Raises ConfigurationError naming every line that is wrong."""
        self._fixed = _records(lines, at="RUNWIRE_KEYS")
        self._file = None if file is None else KeysFile(file, lambda text: _records(text.splitlines(), at=str(file)))

    def close(self) -> None:
        """The file is read no more."""
        if self._file is not None:
            self._file.close()

    def caller(self, key: str) -> Caller:
        """Raises Unauthenticated (`credentials_invalid`, `credentials_expired`)."""
        key_id, _, secret = key.removeprefix(PREFIX).partition("_")
        record = self._record(key_id)
        right = hmac.compare_digest(_digest(key_id, secret), record.digest if record is not None else "0" * 64)
        if record is None or not right:
            raise Unauthenticated("The API key is unknown.", code="credentials_invalid")
        if record.expires_at is not None and clock.wall_us() / 1e6 >= record.expires_at:
            raise Unauthenticated("The API key has expired.", code="credentials_expired")
        return Caller(f"key:{key_id}", record.tenant, record.scopes, record.expires_at, key_id)

    def holds(self, key_id: str, scope: Scope) -> bool:
        """Whether the key exists, has not expired, and has the scope."""
        record = self._record(key_id)
        in_time = record is not None and (record.expires_at is None or clock.wall_us() / 1e6 < record.expires_at)
        return record is not None and in_time and scope in record.scopes

    def _record(self, key_id: str) -> KeyRecord | None:
        record = self._fixed.get(key_id)
        if record is None and self._file is not None:
            self._file.check_watched()
            record = self._file.records.get(key_id)
        return record


def _records(lines: Iterable[str], *, at: str) -> dict[str, KeyRecord]:
    records: dict[str, KeyRecord] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = parse_line(line)
        except ValueError as error:
            problems.append(f"{at}, line {number}: {error}")
        else:
            records[record.key_id] = record
    if problems:
        raise ConfigurationError(tuple(problems))
    return records


def _digest(key_id: str, secret: str) -> str:
    return hashlib.sha256(f"runwire key\0{key_id}\0{secret}".encode(errors="replace")).hexdigest()
