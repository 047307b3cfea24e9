"""Server: the HTTP face of runwire. It joins requests to stages and builds none of them."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.server.app import build_admin_app, build_api_app
    from runwire.server.listener import listening
    from runwire.server.services import AdminServices, Readiness, ReadinessProbe, Services
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "AdminServices",
    "Readiness",
    "ReadinessProbe",
    "Services",
    "build_admin_app",
    "build_api_app",
    "listening",
]
