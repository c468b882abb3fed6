"""A plugin that runs a mesh of its own, in the runtime dir that it is given.

Its one plugin leaves a child in a session of its own, which only its mesh's warden can find.
"""

import sys
from pathlib import Path

import trio

from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig

HERE = Path(__file__).parent


def configuration(folder: str, depth: int) -> MeshConfig:
    command = ["{python}", "-I", "-S", "startup_faults.py", "with-child"]
    plugins = [PluginConfig("inner", command, cwd=HERE, instances=2, ready_timeout=3600.0)]
    if depth > 1:
        below = ["{python}", "nested_mesh.py", f"{folder}i", str(depth - 1)]
        plugins.append(PluginConfig("mesh", below, cwd=HERE, ready_timeout=3600.0))
    return MeshConfig(plugins, runtime_dir=folder)


trio.run(mesh.main, configuration(sys.argv[1], int(sys.argv[2])))
