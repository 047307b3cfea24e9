"""PostgreSQL: connections, named SQL, notifications, migrations and the embedded server."""

from runwire.db.database import ConstraintViolated, Database, NoPartition, Row, Session, Transaction
from runwire.db.notify import Listener
from runwire.db.sql import load_sql

__all__ = ["ConstraintViolated", "Database", "Listener", "NoPartition", "Row", "Session", "Transaction", "load_sql"]
