"""An echo plugin that imports a module which takes long."""

import sys
from pathlib import Path

import slow_import  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo_plugin import EchoServicer

from meshtrio import plugin

if __name__ == "__main__":
    plugin.run(EchoServicer())
