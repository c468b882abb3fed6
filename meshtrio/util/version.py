"""The version of this package.

Builds and editable installs write `_version.py`, with the version that the git tag gives; reading
the metadata of the installed package would delay every start. A tree that was never built has none.
"""

try:
    from meshtrio.util._version import VERSION as VERSION
except ImportError:
    VERSION = "0.1.0.dev0"
