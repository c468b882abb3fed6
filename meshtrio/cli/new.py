"""`meshtrio new`: create a plugin from a template."""

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
"""Modules that no installed distribution lists."""


@attrs.frozen
class ProjectNames:
    """A plugin's name, and the identifiers derived from it."""

    name: str
    package: str
    service: str

    @classmethod
    def from_plugin_name(cls, name: str) -> ProjectNames:
        """Derive the identifiers. Raises UsageError for an invalid name."""
        if not _PLUGIN_NAME.fullmatch(name):
            raise UsageError(
                f"invalid plugin name {name!r}: use up to 64 letters, digits, '-' and '_', "
                "starting with a letter"
            )
        words = re.findall(r"[A-Za-z0-9]+", name)
        package = "_".join(words).lower()
        if keyword.iskeyword(package) or _is_taken(package):
            # The plugin's own folder is first on sys.path.
            package += "_plugin"
        return cls(name, package, "".join(w[0].upper() + w[1:] for w in words) + "Service")

    @property
    def proto(self) -> str:
        return f"{self.package}/v1/{self.package}.proto"


def _is_taken(package: str) -> bool:
    """Whether another module has this name."""
    installed = importlib.metadata.packages_distributions()
    return package in {*sys.stdlib_module_names, *_RESERVED_MODULES, *installed}


@click.command(short_help="Create a folder with a plugin that runs.")
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder to create; by default NAME in the current one.",
)
def new(name: str, folder: Path | None) -> None:
    """Create a folder with a plugin called NAME: a proto, a servicer, a config and a test.

    It runs, and passes its test, as it is. Generates the code of the proto, which needs the extra
    `gen`.
    """
    names = ProjectNames.from_plugin_name(name)
    generator = find_protoc_plugin("new")
    folder = folder or Path(name)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} already exists; choose another with --folder") from None
    except OSError as exc:
        raise UsageError(f"cannot create {folder}: {exc.strerror}") from None
    try:
        _write_files(folder, names)
        if not run_protoc(generator, [folder / names.proto], [folder], folder):
            sys.exit(1)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    text = (
        f"created {folder}: a plugin that serves {names.package}.v1.{names.service}\n"
        f"  cd {folder}\n"
        f"  meshtrio serve mesh.toml                # runs it, until Ctrl-C\n"
        f"  meshtrio call plugin.{name} {names.package}.v1.{names.service}/Greet '{{}}'\n"
        f"  python -m pytest                        # tests it; needs pytest and pytest-trio"
    )
    click.echo(escape_unprintable_lines(text))


def _write_files(folder: Path, names: ProjectNames) -> None:
    templates = resources.files("meshtrio.cli") / "template"
    paths = {name: name for name in ("pyproject.toml", "README.md", "mesh.toml", "plugin.py")}
    paths |= {"service.proto": names.proto, "test_plugin.py": f"tests/test_{names.package}.py"}
    for template, path in paths.items():
        text = (templates / f"{template}.tmpl").read_text("utf-8")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(attrs.asdict(names)), "utf-8")
