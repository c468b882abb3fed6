"""Applies the file that a mesh was started from, and logs what has come of it."""

from __future__ import annotations

import logging

from meshtrio.cli.formatting import describe_changes
from meshtrio.errors import PluginFailedError
from meshtrio.mesh import Mesh
from meshtrio.util.errors import ConfigError, MeshtrioError

_log = logging.getLogger("meshtrio.mesh")


async def reload_config(mesh: Mesh) -> None:
    """Apply the file that a mesh was started from, and log the result or why it is not applied."""
    source = mesh.config.source
    assert source is not None
    try:
        reloaded = await mesh.reload_file()
    except ConfigError as exc:
        for problem in exc.problems:
            _log.error("%s", problem)
        _log.error("keeping the current config")
    except PluginFailedError as exc:
        for line in str(exc).splitlines():
            _log.error("reloaded %s: %s", source.path.name, line)
    except MeshtrioError as exc:
        _log.error("reloading %s: %s", source.path.name, exc)
    except Exception:  # No thread can be started, for example. The mesh goes on.
        _log.exception("reloading %s failed", source.path.name)
    else:
        _log.info("reloaded %s: %s", source.path.name, "; ".join(describe_changes(reloaded)))
