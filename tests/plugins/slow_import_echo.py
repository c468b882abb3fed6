"""An echo plugin that imports modules which take long."""

import slow_import  # noqa: F401  which makes the next one importable
from echo_plugin import EchoServicer

from meshtrio import plugin

if __name__ == "__main__":
    plugin.run(EchoServicer())
