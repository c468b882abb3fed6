"""`meshtrio gen`: code for messages, servicers and stubs, from protos."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import click

from meshtrio.errors import UsageError

_PLUGIN = "protoc-gen-meshtrio"


@click.command()
@click.argument("protos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-I",
    "--proto-path",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder that imports start from; by default the one you are in. May be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write to; by default the first of the folders that imports start from.",
)
def gen(protos: tuple[Path, ...], proto_path: tuple[Path, ...], out: Path | None) -> None:
    """Make Python code from PROTOS: x_pb2.py and its types, and x_grpc.py for its services."""
    if importlib.util.find_spec("grpc_tools") is None:
        raise UsageError("gen runs protoc, which is not here: pip install 'meshtrio[gen]'")
    plugin = shutil.which(_PLUGIN, path=str(Path(sys.executable).parent)) or shutil.which(_PLUGIN)
    if plugin is None:
        raise UsageError(f"{_PLUGIN} is not on the PATH; it comes with meshtrio")
    folders = proto_path or (Path(),)
    out = out or folders[0]
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--plugin={plugin}"]
    command += [f"-I{folder}" for folder in folders]
    command += [f"--{kind}_out={out}" for kind in ("python", "pyi", "meshtrio")]
    # What protoc has to say about a proto, it says itself.
    status = subprocess.run([*command, *map(str, protos)], check=False).returncode
    if status:
        sys.exit(1)
    click.echo(f"made the code of {len(protos)} protos in {out}")
