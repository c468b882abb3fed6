"""Programs of Debian as plugins: Redis, nginx, and notifiers; tests skip where they are missing."""

from __future__ import annotations

from pathlib import Path

from tests.support.mesh_processes import to_toml
from tests.tools import find_debian_tool


def program_table(name: str, *command: str, **settings: object) -> str:
    """Return a [[plugin]] table of a program that is not Python."""
    values = {"name": name, "command": command, **settings}
    return "\n".join(["[[plugin]]", *(f"{k} = {to_toml(v)}" for k, v in values.items()), ""])


def shell_table(name: str, script: str, **settings: object) -> str:
    """Return a [[plugin]] table of a shell script."""
    return program_table(name, "/bin/sh", "-c", script, **settings)


def redis_table(*options: str, **settings: object) -> str:
    """Return a [[plugin]] table of Redis without persistence."""
    program = find_debian_tool("redis-server")
    return program_table("redis", program, "--save", "", *options, **settings)


def write_nginx_config(folder: Path, port: int, status: int) -> Path:
    """Write a config of nginx that answers `/health` with a status; return its path."""
    path = folder / "nginx.conf"
    path.write_text(
        f"""
        daemon off;
        pid {folder}/nginx.pid;
        error_log stderr;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port};
                location = /health {{ return {status}; }}
            }}
        }}
        """
    )
    return path


def nginx_table(folder: Path, port: int, **settings: object) -> str:
    """Return a [[plugin]] table of nginx, which answers `/health` with 204."""
    program = find_debian_tool("nginx")
    config = write_nginx_config(folder, port, 204)
    return program_table("nginx", program, "-c", str(config), "-e", "stderr", **settings)
