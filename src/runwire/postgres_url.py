"""DATABASE_URL as hosting companies, other libraries and libpq write it: understood, or refused with one sentence.

Sources: libpq's "Connection Strings" and "Parameter Key Words" (PostgreSQL 18); what Neon, Supabase, RDS, Heroku,
Prisma and SQLAlchemy hand out. The driver takes a parameter that it does not know for a setting of the server, so each
is looked at here. No sentence quotes a value, which may be a password, or a part of one that was not encoded.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

_SCHEME: Final = re.compile(r"(?i)\A(postgres(?:ql)?)(?:\+(?:asyncpg|psycopg|psycopg2|psycopg_async))?://")
_KEYWORD: Final = re.compile(
    r"\s*([A-Za-z_]\w*)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|))(?=\s|\Z)", re.DOTALL
)
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODE: Final = "percent-encode these in user, password and database: @ is %40, : %3A, / %2F, ? %3F, # %23, % %25"

_WEAK: Final = ("disable", "allow", "prefer", "require", "verify-ca")
_SSLMODES: Final = (*_WEAK, "verify-full")
_TRUE: Final = ("true", "1", "on", "yes", "t")
_FALSE: Final = ("false", "0", "off", "no", "f")

# Understood, and without a meaning here: who we are, timeouts of ours, and the kernel's own probes of a connection.
_NUMBERS: Final = (
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "pool_timeout", "connection_limit", "socket_timeout", "statement_cache_size", "pool_size"),
)
_NAMES: Final = ("application_name", "fallback_application_name")
# Parameters that the driver takes, or the server as a setting of the session.
_PASSED_ON: Final = (
    *("sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "passfile"),
    *("options", "search_path", "statement_timeout", "lock_timeout"),
)
_FILES: Final = ("sslcert", "sslkey", "sslcrl")
_ENUMS: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": _SSLMODES,
    "sslnegotiation": ("postgres", "direct"),
    "gsslib": ("gssapi", "sspi"),
    "target_session_attrs": ("any", "read-write", "primary"),
}
# Values that ask for nothing; with any other the connection would not be what it is said to be.
_HARMLESS: Final[Mapping[str, tuple[str, ...]]] = {
    "gssencmode": ("disable", "prefer"),
    "channel_binding": ("disable", "prefer"),
    "sslcompression": ("0", "1"),
    "sslsni": ("1",),
    "sslcertmode": ("allow", "disable"),
    "gssdelegation": ("0",),
    "replication": _FALSE,
    "client_encoding": ("utf8", "utf-8", "auto", "unicode"),
    "load_balance_hosts": ("disable", "random"),
    "min_protocol_version": ("3.0", "latest"),
    "max_protocol_version": ("3.0", "latest"),
    "uselibpqcompat": (*_TRUE, *_FALSE),
    "prepared_statements": (*_TRUE, *_FALSE),
}
_WHY: Final[Mapping[str, str]] = {
    "channel_binding": "the driver cannot bind to the channel; leave it out, and say sslmode=verify-full with "
    "sslrootcert=system, which proves who the server is",
    "gssencmode": "the driver cannot encrypt with GSSAPI; leave it out, and say sslmode=verify-full",
    "target_session_attrs": "target_session_attrs must be any, read-write or primary: runwire writes",
    "replication": "a replication connection runs no statements: leave it out",
    "client_encoding": "must be utf8: leave it out",
}


class UrlRefused(ValueError):
    """The text is one sentence, without anything that may be secret."""


def understood(text: str, *, pooled: bool = False) -> str:
    """The URL as the driver takes it, `postgresql://...`: whatever it would misread is left out or spelled out.

    `pooled`: PostgreSQL itself is known under another URL. Raises UrlRefused.
    """
    text = text.strip().removeprefix("\ufeff")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UrlRefused("has control characters in it, or a line break")
    if found := _SCHEME.match(text):
        where, parameters = _of_url(text[found.end() :])
    elif "://" not in text and _KEYWORD.match(text):
        where, parameters = _Where(), _of_keywords(text)
    else:
        raise UrlRefused("must begin with postgresql:// (or be host=... dbname=... user=...)")
    where.take(parameters)
    asked = _Asked(parameters, pooled=pooled)
    kept = dict(part for name, value in parameters.items() for part in _rule(name)(name, value, asked))
    return where.url(kept)


def _bracketed(host: str) -> str:
    """An IPv6 address in brackets. The folder of a socket may have colons, too: Cloud SQL's does."""
    return f"[{host}]" if ":" in host and not host.startswith("/") else host


def _decoded(text: str) -> str:
    """Without percent-encoding. Raises UrlRefused for bytes that no text of PostgreSQL's has."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise UrlRefused("has percent-encoded bytes that are not UTF-8") from None
    if "\0" in decoded:
        raise UrlRefused("has a percent-encoded zero byte, which no value may have")
    return decoded


class _Where:
    """The user, password, database and servers of a URL. Without a host, the driver's defaults hold, such as a
    socket.
    """

    def __init__(self) -> None:
        self.user = self.password = self.database = ""
        self.hosts: list[str] = []
        self.ports: list[str] = []
        """One for each host, empty where none is named; without hosts, those of the default host."""

    def add(self, host: str, port: str) -> None:
        if not host.startswith("/") and re.search(r"[\s\x00-\x20\x7f]", host):
            raise UrlRefused("has a host name with a blank in it")
        self.hosts.append(host)
        self.ports.append(_port(port))

    def take(self, parameters: dict[str, str]) -> None:
        """Takes its values out of `parameters`: hosts and ports as lists. A port alone belongs to the default host."""
        self.user = self.user or parameters.pop("user", "")
        self.password = self.password or parameters.pop("password", "")
        self.database = self.database or parameters.pop("dbname", "") or parameters.pop("database", "")
        for name in ("user", "password", "dbname", "database"):
            parameters.pop(name, None)
        hosts, addresses, ports = (parameters.pop(name, "") for name in ("host", "hostaddr", "port"))
        if addresses and hosts and parameters.get("sslmode") == "verify-full":
            raise UrlRefused("hostaddr hides the host name that sslmode=verify-full checks: leave hostaddr out")
        if not (addresses or hosts):
            if ports and not self.hosts:
                self.ports = [_port(port) for port in ports.split(",")]
            return
        if self.hosts:
            raise UrlRefused("names its host twice")
        said = [port.strip() for port in ports.split(",")] if ports else [""]
        names = [name.strip() for name in (addresses or hosts).split(",")]
        if len(said) not in (1, len(names)):
            raise UrlRefused("must name one port, or one for each host")
        for number, name in enumerate(names):
            host, port = (name, "") if addresses else _host_and_port(name)
            self.add(host, port or said[number % len(said)])

    def url(self, parameters: dict[str, str]) -> str:
        hosts = ",".join(map(_bracketed, self.hosts))
        pairs = ",".join(
            _bracketed(host) + (port and f":{port}") for host, port in zip(self.hosts, self.ports, strict=False)
        )
        if "/" in hosts:  # sockets
            pairs = ""
            parameters |= {"host": hosts, "port": ",".join(port or "5432" for port in self.ports)}
        elif not hosts and self.ports:
            parameters |= {"port": ",".join(self.ports)}
        who = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        tail = "&".join(f"{name}={quote(value, safe='/,:[]-_.')}" for name, value in parameters.items())
        url = f"postgresql://{who}{'@' if who or not pairs else ''}{pairs}"
        if self.database or tail or not pairs:
            url += f"/{quote(self.database, safe='')}"
        return url + (f"?{tail}" if tail else "")


def _of_url(rest: str) -> tuple[_Where, dict[str, str]]:
    """Of everything behind `://`."""
    head, _, query = rest.partition("?")
    authority, _, path = head.partition("/")
    userinfo, at, hostlist = authority.rpartition("@")
    if "#" in rest or "@" in userinfo or _BAD_PERCENT.search(rest) or "@" in path or "@" in query.partition("=")[0]:
        raise UrlRefused(f"cannot be read: {_ENCODE}")
    where = _Where()
    if at:
        user, _, password = userinfo.partition(":")
        where.user, where.password = _decoded(user), _decoded(password)
    for host in hostlist.split(",") if hostlist else ():
        name, port = _host_and_port(host)
        where.add(_decoded(name), port)
    if "/" in path.rstrip("/"):
        raise UrlRefused(f"has a path of several parts where the name of the database should be: {_ENCODE}")
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UrlRefused("has a parameter without a value")
        parameters[_decoded(name)] = _decoded(value)
    where.database = _decoded(path.rstrip("/"))
    return where, parameters


def _of_keywords(text: str) -> dict[str, str]:
    """Of `host=db dbname='with spaces'`."""
    parameters: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        found = _KEYWORD.match(text, at)
        if found is None:
            raise UrlRefused("cannot be read: put values with spaces into '...', and a backslash before ' and \\")
        name, quoted, plain = found.groups()
        parameters[name] = re.sub(r"\\(.)", r"\1", plain if quoted is None else quoted, flags=re.DOTALL)
        at = found.end()
    return parameters


def _host_and_port(spec: str) -> tuple[str, str]:
    spec = spec.strip()
    if spec.startswith(("/", "@")):  # a folder with a socket
        if spec.startswith("@"):
            raise UrlRefused("names an abstract socket, which the driver cannot open")
        return spec, ""
    if spec.startswith("["):
        host, bracket, port = spec[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise UrlRefused("has an IPv6 address without its closing ]")
        return host, port.removeprefix(":")
    if spec.count(":") > 1:
        if not re.fullmatch(r"[0-9A-Fa-f:.%\w]+", spec):
            raise UrlRefused(f"has a host that cannot be read: {_ENCODE}")
        return spec, ""  # IPv6 without brackets, as keywords have it
    host, _, port = spec.partition(":")
    return host or "localhost", port


def _port(text: str) -> str:
    if not text:
        return ""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise UrlRefused(
            f"has a port that is not a number from 1 to 65535; if that is a part of the password, {_ENCODE}"
        )
    return str(int(text))


@dataclass(frozen=True, slots=True)
class _Asked:
    """All parameters together, since what one may be depends on others."""

    parameters: Mapping[str, str]
    pooled: bool

    @property
    def trusts_system(self) -> bool:
        return self.parameters.get("sslrootcert") == "system"


_Kept = Iterable[tuple[str, str]]
_Rule = Callable[[str, str, _Asked], _Kept]
"""Returns the parts of a parameter that the driver gets. Raises UrlRefused for one that it cannot honour."""


def _number(name: str, value: str, _asked: _Asked) -> _Kept:
    if not re.fullmatch(r"-?[0-9]+", value.strip()):
        raise UrlRefused(f"{name} must be a number")
    return ()


def _nothing(_name: str, _value: str, _asked: _Asked) -> _Kept:
    return ()


def _as_it_is(name: str, value: str, _asked: _Asked) -> _Kept:
    return [(name, value)] if value else ()


def _harmless(name: str, value: str, _asked: _Asked) -> _Kept:
    if value.lower() not in _HARMLESS[name]:
        raise UrlRefused(f"{name}: {_WHY.get(name, 'has a value that the driver cannot honour; leave it out')}")
    return ()


def _one_of(name: str, value: str, _asked: _Asked) -> _Kept:
    if value.lower() not in _ENUMS[name]:
        *others, last = _ENUMS[name]
        raise UrlRefused(_WHY.get(name) or f"{name} must be {', '.join(others)} or {last}")
    return [(name, value.lower())]


def _file(name: str, value: str, _asked: _Asked) -> _Kept:
    if value and not Path(value).is_file():
        raise UrlRefused(f"{name} names a file that does not exist or cannot be read")
    return [(name, value)] if value else ()


def _channel_binding(name: str, value: str, asked: _Asked) -> _Kept:
    """Accepts `require` when the certificate is verified, which also proves that nobody sits in between."""
    verified = asked.parameters.get("sslmode") == "verify-full" or asked.trusts_system
    return () if value.lower() == "require" and verified else _harmless(name, value, asked)


def _root_certificate(name: str, value: str, asked: _Asked) -> _Kept:
    """`system`: whom this machine trusts; libpq takes no weaker mode than verify-full with it, and that by default."""
    if value != "system":
        return _file(name, value, asked)
    if asked.parameters.get("sslmode", "verify-full") in _WEAK:
        raise UrlRefused("sslrootcert=system needs sslmode=verify-full")
    trusted = ssl.get_default_verify_paths().cafile
    if trusted is None:
        raise UrlRefused("sslrootcert=system: this machine has no file of trusted certificates; name one")
    mode = [] if "sslmode" in asked.parameters else [("sslmode", "verify-full")]
    return [*mode, (name, trusted)]


def _ssl(_name: str, value: str, asked: _Asked) -> _Kept:
    """As JDBC and node-postgres say it."""
    if value.lower() not in (*_TRUE, *_FALSE):
        raise UrlRefused("ssl must be true or false; better: sslmode=require")
    return [("sslmode", "require")] if value.lower() in _TRUE and "sslmode" not in asked.parameters else ()


def _pgbouncer(_name: str, value: str, asked: _Asked) -> _Kept:
    if value.lower() not in _FALSE and not asked.pooled:
        raise UrlRefused("pgbouncer=true means a pooler: set RUNWIRE_DATABASE_DIRECT_URL to PostgreSQL itself, too")
    return ()


def _schema(_name: str, value: str, asked: _Asked) -> _Kept:
    """Prisma's name for the search path."""
    if "search_path" in asked.parameters or not value:
        return ()
    return [("search_path", '"' + value.replace('"', '""') + '"')]


def _service(_name: str, _value: str, _asked: _Asked) -> _Kept:
    raise UrlRefused("service: runwire reads no service file; name host, user and database here")


def _unknown(name: str, _value: str, _asked: _Asked) -> _Kept:
    shown = name if re.fullmatch(r"\w{1,40}", name) else "one of its parameters"
    raise UrlRefused(f"{shown} is not a parameter that runwire knows: leave it out")


_RULES: Final[Mapping[str, _Rule]] = {
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_NAMES, _nothing),
    **dict.fromkeys(_PASSED_ON, _as_it_is),
    **dict.fromkeys(_HARMLESS, _harmless),
    **dict.fromkeys(_ENUMS, _one_of),
    **dict.fromkeys(_FILES, _file),
    "channel_binding": _channel_binding,
    "sslrootcert": _root_certificate,
    "ssl": _ssl,
    "pgbouncer": _pgbouncer,
    "schema": _schema,
    "service": _service,
    "servicefile": _service,
}


def _rule(name: str) -> _Rule:
    return _RULES.get(name, _unknown)
