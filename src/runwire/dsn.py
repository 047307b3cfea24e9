"""Addresses of databases without their credentials, safe to show."""

from __future__ import annotations

import re


def redact_dsn(dsn: str) -> str:
    """The DSN (URL or keyword form) without its password, for logs, messages and `repr`."""
    without_userinfo = re.sub(r"(?<=://)([^:@/?#]*):.*@(?=[^@]*$)", r"\1:***@", dsn, flags=re.DOTALL)
    return re.sub(
        r"(?i)\b((?:ssl)?password|passphrase)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]*)", r"\1\2***", without_userinfo
    )
