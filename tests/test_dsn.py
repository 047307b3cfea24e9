"""Addresses of databases are shown without their passwords."""

from __future__ import annotations

import pytest

from runwire.dsn import redact_dsn


@pytest.mark.parametrize(
    ("dsn", "safe"),
    [
        ("postgresql://ann:s3cr3t@db:5432/runs", "postgresql://ann:***@db:5432/runs"),
        ("postgresql://ann:s3/c@r3t@db/runs", "postgresql://ann:***@db/runs"),
        ("postgresql://:s3cr3t@db/runs", "postgresql://:***@db/runs"),
        ("postgresql://ann@db/runs", "postgresql://ann@db/runs"),
        (
            "postgresql:///runs?host=/run/pg&password=s3cr3t&user=ann",
            "postgresql:///runs?host=/run/pg&password=***&user=ann",
        ),
        ("host=db password=s3cr3t user=ann", "host=db password=*** user=ann"),
        ("host=db password='s3 \\' cr3t' user=ann", "host=db password=*** user=ann"),
        ("nats://tok:s3cr3t@bus:4222", "nats://tok:***@bus:4222"),
        ("postgresql://ann:s3cr3t@a:1,b:2/runs?sslmode=require", "postgresql://ann:***@a:1,b:2/runs?sslmode=require"),
    ],
)
def test_a_dsn_in_a_log_has_no_password(dsn: str, safe: str) -> None:
    assert redact_dsn(dsn) == safe
