"""The version of this package.

Builds and editable installs write `_version.py`, with the version that the git tag gives; reading
the metadata of the installed package would delay every start. A tree that was never built has none.
"""

from contextlib import suppress
from importlib import import_module

VERSION = "0.1.0.dev0"
with suppress(ImportError):
    # By name: where the file is missing, import-linter takes an import statement of it for one of
    # `meshtrio`, which is above all other packages.
    VERSION = import_module("meshtrio.util._version").VERSION
