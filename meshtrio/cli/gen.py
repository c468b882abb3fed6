"""`meshtrio gen`: generate messages, servicers and stubs from protos."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from meshtrio.codegen.naming import pb2_module_name
from meshtrio.codegen.repair import repair_module, repair_types
from meshtrio.errors import UsageError
from meshtrio.util.text import escape_unprintable, escape_unprintable_lines

_PROTOC_PLUGIN = "protoc-gen-meshtrio"


@click.command(short_help="Generate Python code from protos.")
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
    click.echo(escape_unprintable(f"generated code from {len(protos)} protos in {out}"))


def find_protoc_plugin(command: str) -> str:
    """Return the path of our protoc plugin. Raises UsageError if it or protoc is not installed."""
    if importlib.util.find_spec("grpc_tools") is None:
        raise UsageError(f"{command} needs protoc: pip install 'meshtrio[gen]'")
    found = shutil.which(_PROTOC_PLUGIN, path=str(Path(sys.executable).parent)) or shutil.which(
        _PROTOC_PLUGIN
    )
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
