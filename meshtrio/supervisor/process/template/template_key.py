"""Which plugins can be forked from the same template."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.process.saved_processes import SavedTemplateKey

_MODULES = ("meshtrio.plugin_preload",)
"""The modules that each template imports first."""


@attrs.frozen
class TemplateKey:
    """What a template is made of. Plugins share a template if all of it is equal.

    A module may read the environment and the working directory when it is imported, and a few
    variables (PYTHONPATH, LD_PRELOAD) only count when an interpreter starts. The variables that
    differ from instance to instance are not part of it: they are set in the child.
    """

    interpreter: tuple[str, ...]
    """The interpreter with its options."""
    modules: tuple[str, ...]
    """The modules that it imports, in this order."""
    search_path: str | None
    """The directory that the program imports from, if modules of the plugin are imported."""
    cwd: str
    """Its working directory."""
    env: frozenset[tuple[str, str]] = attrs.field(repr=False)
    """Its environment."""
    user: str | None
    """The user that it runs as; None for the mesh's."""
    group: str | None
    """Its primary group; None for the user's."""
    nice: int | None
    """Its nice value, which a child could not lower."""

    @classmethod
    def make(cls, config: PluginConfig, env: Mapping[str, str]) -> TemplateKey:
        """Make the key for a plugin, with the variables that all of its instances have.

        Raises:
            ValueError: Its command does not run Python.
            OSError: The working directory of this process is gone.
        """
        command, containment = config.python_command(), config.containment
        cwd = os.getcwd() if config.cwd is None else os.path.abspath(config.cwd)
        path = None
        if config.preload:
            path = cwd
            if not command.option:
                program = Path(cwd, command.program)
                is_archive = program.is_dir() or zipfile.is_zipfile(program)
                path = str(program) if is_archive else os.path.dirname(os.path.realpath(program))
        return cls(
            command.interpreter,
            _MODULES + config.preload,
            path,
            cwd,
            frozenset(env.items()),
            containment.user,
            containment.group,
            containment.nice,
        )

    @classmethod
    def adopt(cls, saved: SavedTemplateKey) -> TemplateKey:
        """Make the key of a template that was started before an upgrade."""
        fields = attrs.asdict(saved, recurse=False)
        return cls(**{**fields, "env": frozenset(saved.env)})

    def save(self) -> SavedTemplateKey:
        """Return what an upgrade hands over."""
        fields = attrs.asdict(self, recurse=False)
        return SavedTemplateKey(**{**fields, "env": tuple(sorted(self.env))})

    @property
    def containment(self) -> Mapping[str, object]:
        """The settings that `launcher_main` applies to the template."""
        rlimits: Mapping[str, int] = {}
        names = {"user": self.user, "group": self.group, "nice": self.nice}
        return {**names, "rlimits": rlimits, "umask": None}
