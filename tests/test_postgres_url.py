"""Connection strings as they are copied: each is understood, or refused with one sentence that has no secret in it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from pipeline import raw
from runwire.errors import ConfigurationError
from runwire.postgres_url import UrlRefused, understood
from runwire.settings import load_settings

CA = "sslrootcert=" + quote(__file__, safe="")  # any file: nobody connects with it here
UNDERSTOOD = {
    "postgres://u:p@h/d": "postgresql://u:p@h/d",
    "POSTGRESQL://u:p@h:6543/d": "postgresql://u:p@h:6543/d",
    "postgresql+asyncpg://u:p@h/d": "postgresql://u:p@h/d",
    "postgresql+psycopg2://u:p@h/d": "postgresql://u:p@h/d",
    "  'postgresql://u:p@h/d'\n": "postgresql://u:p@h/d",
    "postgresql://u:p%40ss%2Fw%3Ard%3F%23%25%26@h/d": "postgresql://u:p%40ss%2Fw%3Ard%3F%23%25%26@h/d",
    "postgresql://u:pä@h/d": "postgresql://u:p%C3%A4@h/d",
    "postgresql://u%40tenant:p@h/my%20db": "postgresql://u%40tenant:p@h/my%20db",
    "postgresql://u:p@a:1,b:2,c/d": "postgresql://u:p@a:1,b:2,c/d",
    "postgresql://u@[::1]:7/d": "postgresql://u@[::1]:7/d",
    "postgresql://u@%2Frun%2Fpg/d": "postgresql://u@/d?host=/run/pg&port=5432",
    "postgresql://u@%2Frun%2Fpg:98/d": "postgresql://u@/d?host=/run/pg&port=98",
    "postgresql:///d?host=/run/pg&user=u&port=99": "postgresql://u@/d?host=/run/pg&port=99",
    "postgresql://u@/d": "postgresql://u@/d",
    "postgresql://u:p@/d?host=/cloudsql/project:region:db": "postgresql://u:p@/d?host=/cloudsql/project:region:db&port=5432",
    "postgresql://u:p@%2Fcloudsql%2Fproject%3Aregion%3Adb/d": "postgresql://u:p@/d?host=/cloudsql/project:region:db&port=5432",
    "host=/cloudsql/project:region:db user=u dbname=d": "postgresql://u@/d?host=/cloudsql/project:region:db&port=5432",
    "postgresql://h": "postgresql://h",
    "postgresql://u@h/d?sslmode=prefer&channel_binding=prefer": "postgresql://u@h/d?sslmode=prefer",
    f"postgresql://u@h/d?sslmode=verify-full&channel_binding=require&{CA}": None,
    "postgresql://u@h/d?connect_timeout=10&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3"
    "&tcp_user_timeout=10000": "postgresql://u@h/d",
    "postgresql://u@h/d?target_session_attrs=read-write": "postgresql://u@h/d?target_session_attrs=read-write",
    "postgresql://u@h/d?options=-c%20search_path%3Dapp": "postgresql://u@h/d?options=-c%20search_path%3Dapp",
    "postgresql://u@h/d?options=a+b": "postgresql://u@h/d?options=a%2Bb",
    "postgresql://u@h/d?application_name=mine&gssencmode=disable": "postgresql://u@h/d",
    "postgresql://u@h/d?schema=app&connection_limit=5&pool_timeout=10": "postgresql://u@h/d?search_path=%22app%22",
    "postgresql://u@h/d?pgbouncer=false": "postgresql://u@h/d",
    "postgresql://u@h/d?ssl=true": "postgresql://u@h/d?sslmode=require",
    "postgresql://u@h/d?sslmode=require&sslnegotiation=direct": "postgresql://u@h/d?sslmode=require&sslnegotiation=direct",
    "postgresql://u@h/d?client_encoding=utf8&replication=false&load_balance_hosts=disable": "postgresql://u@h/d",
    "host=h dbname=d user=u password='a \\'b\\\\'": "postgresql://u:a%20%27b%5C@h/d",
    "host=a,b port=1,2 dbname = d user=u sslmode=disable": "postgresql://u@a:1,b:2/d?sslmode=disable",
    "host=::1 dbname=d user=u password=": "postgresql://u@[::1]/d",
    "dbname=d": "postgresql://@/d",
}
REFUSED = {
    "mysql://u:s3cr3t@h/d": "must begin with postgresql://",
    "jdbc:postgresql://h/d?user=u&password=s3cr3t": "must begin with postgresql://",
    "psql 'postgresql://u:s3cr3t@h/d'": "must begin with postgresql://",
    "s3cr3t": "must begin with postgresql://",
    "postgresql://u:s3@cr3t#x@h/d": "%40",
    "postgresql://u:s3#cr3t@h/d": "%23",
    "postgresql://u:s3/cr3t@h/d": "%2F",
    "postgresql://u:s3?cr3t@h/d": "%3F",
    "postgresql://u:s3%cr3t@h/d": "%25",
    "postgresql://u:s3cr3t@h:port/d": "port",
    "postgresql://u:s3cr3t@h:99999/d": "port",
    "postgresql://u:s3cr3t@h:0/d": "port",
    "postgresql://u:s3cr3t@[::1/d": "IPv6",
    "postgresql://u:s3cr3t@h/d/e": "path",
    "postgresql://u:s3cr3t@h/d?foo=bar": "foo",
    "postgresql://u:s3cr3t@h/d?sslmode=no-verify": "sslmode must be disable",
    "postgresql://u:s3cr3t@h/d?sslmode=require&channel_binding=require": "channel_binding",
    "postgresql://u:s3cr3t@h/d?gssencmode=require": "gssencmode",
    "postgresql://u:s3cr3t@h/d?connect_timeout=soon": "connect_timeout must be a number",
    "postgresql://u:s3cr3t@h/d?target_session_attrs=standby": "target_session_attrs",
    "postgresql://u:s3cr3t@h/d?replication=database": "replication",
    "postgresql://u:s3cr3t@h/d?pgbouncer=true": "RUNWIRE_DATABASE_DIRECT_URL",
    "postgresql://u:s3cr3t@h/d?sslrootcert=/no/such/file": "sslrootcert names a file",
    "postgresql://u:s3cr3t@h/d?sslmode=require&sslrootcert=system": "needs sslmode=verify-full",
    "postgresql://u:s3cr3t@h/d?service=prod": "service",
    "postgresql://u:s3cr3t@h/d?require_auth=scram-sha-256": "require_auth",
    "postgresql://u:s3cr3t@h/d?connect_timeout": "without a value",
    "postgresql://u:s3cr3t\n@h/d": "line break",
    "postgresql://u:s3cr3t%ff@h/d": "not UTF-8",
    "postgresql://u:s3cr3t%00@h/d": "zero byte",
    "postgresql://u:s3cr3t@h/d?options=%00": "zero byte",
    "postgresql://u:s3cr3t@h.example com/d": "blank",
    "host='h 1' password=s3cr3t": "blank",
    "host=h password='s3cr3t dbname=d": "cannot be read",
    "host=a,b,c port=1,2 password=s3cr3t": "one port",
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_a_url_that_is_understood_is_one_the_driver_takes(text: str) -> None:
    url = understood(text)
    if (expected := UNDERSTOOD[text]) is not None:
        assert url == expected
    assert understood(url) == url  # processes hand it on


@pytest.mark.parametrize("text", REFUSED)
def test_a_url_that_is_refused_says_why_and_shows_no_secret(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UrlRefused, match=REFUSED[text].replace("?", r"\?")) as refused:
        understood(text)
    monkeypatch.setenv("DATABASE_URL", text)
    with pytest.raises(ConfigurationError) as wrong:
        load_settings()
    for sentence in (str(refused.value), *wrong.value.problems):
        assert "s3" not in sentence
        assert "cr3t" not in sentence
        assert "\n" not in sentence


def test_a_pooler_may_say_that_it_is_one_where_the_server_is_known() -> None:
    assert understood("postgresql://u@h/d?pgbouncer=true", pooled=True) == "postgresql://u@h/d"


def test_the_system_s_trust_is_a_file_that_the_driver_can_read() -> None:
    url = understood("postgresql://u@h/d?sslrootcert=system&channel_binding=require")
    assert "sslmode=verify-full" in url
    assert "sslrootcert=/" in url


NASTY = ["p@ss/w:rd?#%& é", "a b+c", "'\\\"", "%40", "日本", "x" * 300, "=&;,[]"]


@pytest.mark.parametrize("password", NASTY)
async def test_user_password_and_database_of_any_characters_get_there(postgres_dsn: str, password: str) -> None:
    admin = await raw(postgres_dsn)
    name = f'We\'ird "{len(password)}" %1 @:/?# {abs(hash(password)) % 10**6}'
    ident = '"' + name.replace('"', '""') + '"'
    await admin.execute(f"CREATE ROLE {ident} LOGIN PASSWORD '{password.replace(chr(39), chr(39) * 2)}'")
    await admin.execute(f"CREATE DATABASE {ident} OWNER {ident}")
    [socket], [port] = (parse_qs(urlsplit(postgres_dsn).query)[name] for name in ("host", "port"))
    try:
        who = f"{quote(name, safe='')}:{quote(password, safe='')}"
        keywords = " ".join(
            f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
            for key, value in {"host": socket, "port": port, "user": name, "password": password, "dbname": name}.items()
        )
        for text in (f"postgres://{who}@{quote(socket, safe='')}:{port}/{quote(name, safe='')}", keywords):
            connection = await asyncpg.connect(understood(text))
            assert await connection.fetchval("SELECT current_user::text = $1 AND current_database()::text = $1", name)
            await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE {ident}")
        await admin.execute(f"DROP ROLE {ident}")
        await admin.close()


async def test_a_schema_in_the_url_is_where_tables_are_looked_for(database: str) -> None:
    connection = await asyncpg.connect(understood(f"{database}&schema=App"))
    assert await connection.fetchval("SHOW search_path") == '"App"'
    await connection.close()


def test_a_certificate_s_file_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / "my ca+1.pem"
    file.touch()
    assert quote(str(file), safe="/-_.") in understood(
        f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={quote(str(file))}"
    )
