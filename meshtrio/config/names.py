"""Names of services, as the registry has them."""

from __future__ import annotations

import re

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,255}")


def check_service_name(name: str) -> None:
    """Raise ValueError for what is not the name of a service."""
    if not _SERVICE.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of a service, as in plugin.echo")
