"""`meshtrio new`: a plugin to begin with."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import shutil
import sys
from importlib import resources
from pathlib import Path
from string import Template

import attrs
import click

from meshtrio.cli.gen import find_protoc_plugin, run_protoc
from meshtrio.errors import UsageError
from meshtrio.util.text import escape_unprintable_lines

_PLUGIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_RESERVED_MODULES = frozenset({"meshtrio", "plugin", "tests"})
"""Modules that are there without a distribution that says so."""


@attrs.frozen
class ProjectNames:
    """What a plugin's name becomes where only identifiers can be."""

    name: str
    package: str
    service: str

    @classmethod
    def from_plugin_name(cls, name: str) -> ProjectNames:
        """Raises UsageError for a name that no plugin can have."""
        if not _PLUGIN_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a plugin's name: that has up to 64 letters, digits, '-' and "
                "'_', and begins with a letter"
            )
        words = re.findall(r"[A-Za-z0-9]+", name)
        package = "_".join(words).lower()
        if keyword.iskeyword(package) or _is_taken(package):
            # The plugin's own folder comes before all others when it imports.
            package += "_plugin"
        return cls(name, package, "".join(w[0].upper() + w[1:] for w in words) + "Service")

    @property
    def files(self) -> dict[str, str]:
        """The files to make, each with the template it is made of."""
        return {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            "mesh.toml": "mesh.toml",
            "plugin.py": "plugin.py",
            self.proto: "service.proto",
            f"tests/test_{self.package}.py": "test_plugin.py",
        }

    @property
    def proto(self) -> str:
        return f"{self.package}/v1/{self.package}.proto"


def _is_taken(package: str) -> bool:
    """Whether something else is imported by this name."""
    installed = importlib.metadata.packages_distributions()
    return (
        package in sys.stdlib_module_names or package in _RESERVED_MODULES or package in installed
    )


@click.command(short_help="Make a folder with a plugin that runs.")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder to make; by default NAME, where you are.",
)
def new(name: str, folder: Path | None) -> None:
    """Make a folder with a plugin called NAME: a proto, a servicer, a config and a test.

    All of it runs and passes its test at once. What protoc makes of the proto is made, too, which
    needs the extra `gen`.
    """
    names = ProjectNames.from_plugin_name(name)
    generator = find_protoc_plugin("new")
    folder = folder or Path(name)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there already; say another with --folder") from None
    except OSError as exc:
        raise UsageError(f"{folder} cannot be made: {exc.strerror}") from None
    try:
        _write_files(folder, names)
        if not run_protoc(generator, [folder / names.proto], [folder], folder):
            sys.exit(1)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    text = (
        f"made {folder}: a plugin that serves {names.package}.v1.{names.service}\n"
        f"  cd {folder}\n"
        f"  meshtrio serve mesh.toml                # runs it, until Ctrl-C\n"
        f"  meshtrio call plugin.{name} {names.package}.v1.{names.service}/Greet '{{}}'\n"
        f"  python -m pytest                        # tests it; needs pytest and pytest-trio"
    )
    click.echo(escape_unprintable_lines(text))


def _write_files(folder: Path, names: ProjectNames) -> None:
    templates = resources.files("meshtrio.cli") / "template"
    values = attrs.asdict(names)
    for path, template in names.files.items():
        text = Template((templates / f"{template}.tmpl").read_text("utf-8")).substitute(values)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
