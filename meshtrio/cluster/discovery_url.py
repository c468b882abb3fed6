"""The URL of etcd for clients: `etcd://host:port,host:port/prefix?key=value`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from meshtrio.config import DiscoveryConfig
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig

_SCHEMES = {"etcd": "http", "etcds": "https"}
_TLS_KEYS = ("ca", "certificate", "key", "server_name")
_PEER_KEYS = tuple(f"peer_{key}" for key in _TLS_KEYS)
_KEYS = (*_TLS_KEYS, *_PEER_KEYS, "zone", "user", "password_file")


def parse_discovery_url(url: str) -> DiscoveryConfig:
    """Parse a URL.

    `etcd` is for members without TLS, `etcds` for those with. The path is the prefix of the keys.
    The query has files and names of [mesh.discovery]: `ca`, `certificate`, `key` and `server_name`
    of connections to etcd, the same with `peer_` of those to nodes, `zone`, `user` and
    `password_file`.

    Raises:
        ConfigError: It has another form, or a value is wrong.
    """
    shown = repr(url) if "@" not in url else "the URL"  # It may have a password.
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as exc:
        raise ConfigError([f"discovery: {shown} is not a URL: {exc}"]) from None
    scheme, unknown = _SCHEMES.get(parts.scheme), sorted(query.keys() - set(_KEYS))
    if scheme is None or not parts.netloc:
        raise ConfigError([f"discovery: {shown} is not etcd://host:port/prefix, nor etcds://"])
    if unknown:
        problem = f"{unknown[0]!r} is none of {', '.join(_KEYS)}"
        raise ConfigError([f"discovery: {shown}: {problem}"])
    prefix = parts.path.strip("/") or "meshtrio"
    try:
        config = DiscoveryConfig(
            etcd=[f"{scheme}://{host}" for host in parts.netloc.split(",")],
            tls=_make_tls(query, ""),
            peer_tls=_make_tls(query, "peer_"),
            password_file=Path(query["password_file"]) if "password_file" in query else None,
            prefix=prefix,
            zone=query.get("zone", ""),
            user=query.get("user"),
        )
    except ValueError as exc:
        raise ConfigError([f"discovery: {shown}: {exc}"]) from None
    return config


def _make_tls(query: dict[str, str], prefix: str) -> ClientTlsConfig | None:
    names = {key: query[prefix + key] for key in _TLS_KEYS if prefix + key in query}
    if not names:
        return None
    server_name = names.pop("server_name", None)
    return ClientTlsConfig(**{k: Path(v) for k, v in names.items()}, server_name=server_name)
