"""A secret that all processes on one database share, made by the first that needs it."""

from __future__ import annotations

import secrets

from runwire.db.database import Database


async def shared_secret(database: Database, name: str) -> bytes:
    """32 random bytes, the same for every caller with this `name`. Only the owner of the tables can read them."""
    await database.execute(
        "INSERT INTO service_secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        name,
        secrets.token_bytes(32),
    )
    value: bytes = await database.fetchval("SELECT value FROM service_secrets WHERE name = $1", name)
    return value
