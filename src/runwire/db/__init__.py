"""PostgreSQL: connections, named SQL, notifications, migrations and the embedded server."""

from runwire.db.database import ConstraintViolated, Database, NoPartition, Row, Session, Transaction
from runwire.db.notify import Listener
from runwire.db.sql import load_sql
from runwire.db.tenancy import Statements, seen_by

__all__ = [
    "ConstraintViolated",
    "Database",
    "Listener",
    "NoPartition",
    "Row",
    "Session",
    "Statements",
    "Transaction",
    "load_sql",
    "seen_by",
]
