"""Commands that write code: `meshtrio gen` from protos, `meshtrio new` from templates."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import attrs
import click

from meshtrio.cli.formatting import format_count
from meshtrio.codegen.naming import pb2_module_name
from meshtrio.codegen.repair import repair_module, repair_types
from meshtrio.util.errors import UsageError
from meshtrio.util.text import escape_unprintable, escape_unprintable_lines

_PROTOC_PLUGIN = "protoc-gen-meshtrio"
_PLUGIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_RESERVED_MODULES = frozenset({"meshtrio", "plugin", "tests"})
"""Modules that no installed distribution lists."""


@click.command()
@click.argument("protos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-I",
    "--proto-path",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder to search for imports; by default the current one. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write to; by default the first --proto-path.",
)
def gen(protos: tuple[Path, ...], proto_path: tuple[Path, ...], out: Path | None) -> None:
    """Generate Python code from PROTOS: x_pb2.py, x_pb2.pyi, and x_grpc.py for services."""
    folders = proto_path or (Path(),)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--proto-path {folder}: no such folder")
    out = out or folders[0]
    if not run_protoc(find_protoc_plugin("gen"), protos, folders, out):
        sys.exit(1)
    click.echo(
        escape_unprintable(f"generated code from {format_count(len(protos), 'proto')} in {out}")
    )


def find_protoc_plugin(command: str) -> str:
    """Return the path of our protoc plugin. Raises UsageError if it or protoc is not installed."""
    if importlib.util.find_spec("grpc_tools") is None:
        raise UsageError(f"{command} needs protoc: pip install 'meshtrio[gen]'")
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which(_PROTOC_PLUGIN, path=beside_python) or shutil.which(_PROTOC_PLUGIN)
    if found is None:
        raise UsageError(f"{_PROTOC_PLUGIN} is not on the PATH; it comes with meshtrio")
    return found


def run_protoc(
    protoc_plugin: str, protos: Sequence[Path], folders: Sequence[Path], out: Path
) -> bool:
    """Run protoc. Return False if it failed; it has printed the reason."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"--out {out}: cannot create: {exc.strerror}") from None
    options = [f"--{kind}_out={out}" for kind in ("python", "pyi", "meshtrio")]
    done = protoc(f"--plugin={protoc_plugin}", *options, protos=protos, folders=folders)
    if done.returncode != 0 or done.stderr:
        # It quotes names from the protos.
        print(escape_unprintable_lines(done.stderr.rstrip("\n")), file=sys.stderr)
    if done.returncode != 0:
        return False
    for proto in protos:
        for folder in folders:
            if proto.resolve().is_relative_to(folder.resolve()):
                _repair_generated_files(out, str(proto.resolve().relative_to(folder.resolve())))
    return True


def protoc(
    *options: str, protos: Sequence[Path], folders: Sequence[Path]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grpc_tools.protoc", *options]
    command += [*(f"-I{folder}" for folder in folders), *map(str, protos)]
    return subprocess.run(command, capture_output=True, check=False, errors="replace", text=True)


def _repair_generated_files(out: Path, proto: str) -> None:
    """Repair the code that protoc generated from a proto, if it cannot be imported as it is."""
    stem = out / pb2_module_name(proto).replace(".", "/")
    for suffix, repair in ((".py", repair_module), (".pyi", repair_types)):
        path = stem.with_name(stem.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text("utf-8")
            if (repaired := repair(text)) != text:
                path.write_text(repaired, "utf-8")


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
        installed = importlib.metadata.packages_distributions()
        taken = {*sys.stdlib_module_names, *_RESERVED_MODULES, *installed}
        if keyword.iskeyword(package) or package in taken:
            # The plugin's own folder is first on sys.path.
            package += "_plugin"
        return cls(name, package, "".join(w[0].upper() + w[1:] for w in words) + "Service")

    @property
    def proto(self) -> str:
        return f"{self.package}/v1/{self.package}.proto"


@click.command()
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
