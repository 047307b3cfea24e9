"""PostgreSQL: connections, named SQL, notifications, migrations and the embedded server."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.db.database import Database
    from runwire.db.notify import Listener
    from runwire.db.patience import AT_ONCE, Patience
    from runwire.db.session import Session
    from runwire.db.sql import load_sql
    from runwire.db.tenancy import Statements, seen_by
    from runwire.db.transaction import Row, Transaction
    from runwire.db.translation import NoPartition
    from runwire.db.troubles import Attempts, Troubles
    from runwire.errors import ConstraintViolated
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "AT_ONCE",
    "Attempts",
    "ConstraintViolated",
    "Database",
    "Listener",
    "NoPartition",
    "Patience",
    "Row",
    "Session",
    "Statements",
    "Transaction",
    "Troubles",
    "load_sql",
    "seen_by",
]
