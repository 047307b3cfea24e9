"""SQL lives in files next to the stage that owns it; each statement has a name and a guarantee."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


def load_sql(package: str, filename: str) -> dict[str, str]:
    """The statements of a `.sql` file by name. A block starts at `-- name: <name>` and ends where the next begins.

    Each begins with `/* <package>.<name> */`: so it is called in `pg_stat_activity`, in the server's log and in traces.
    """
    text = files(package).joinpath(filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    blocks = zip(parts[::2], parts[1::2], strict=True)
    statements = {name: f"/* {package}.{name} */ {body.strip().rstrip(';')}" for name, body in blocks}
    if len(statements) * 2 != len(parts):
        raise ValueError(f"{package}/{filename} names a statement twice")
    return statements
