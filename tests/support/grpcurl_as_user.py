"""grpcurl as another user, which finds the types in a folder that this user may read."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.tools import find_tool


class GrpcurlAsUser:
    """Calls the mesh's own services on a socket."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self._folder = folder
        self._socket = socket

    def _command(self, method: str, data: dict[str, Any]) -> list[str]:
        service = method.partition("/")[0].rpartition(".")[2].lower()
        types = ["-import-path", str(self._folder / "protos")]
        types += ["-proto", f"meshtrio/v1/{service}.proto"]
        options = ["-plaintext", "-d", json.dumps(data)]
        target = f"unix://{self._socket}"
        return [str(self._folder / "grpcurl"), *types, *options, target, f"meshtrio.v1.{method}"]

    def call(self, uid: int, method: str, **data: Any) -> str:
        """Return what a call answered, or the code and message of its status."""
        done = subprocess.run(
            self._command(method, data),
            user=uid,
            group=uid,
            extra_groups=[],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    @contextmanager
    def open_stream(self, uid: int, method: str, **data: Any) -> Iterator[subprocess.Popen[str]]:
        """Have a call open during the block, from its first answer on."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self._command(method, data),
            user=uid,
            group=uid,
            extra_groups=[],
            cwd=self._folder,
            stdout=pipe,
            stderr=pipe,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                if not process.stdout.readline():
                    raise AssertionError(process.stderr.read())
                yield process
            finally:
                process.kill()


@contextmanager
def make_shared_directory() -> Iterator[Path]:
    """A folder that other users may look into, with a grpcurl that they may run."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(find_tool("grpcurl"), folder / "grpcurl")
        shutil.copytree(ROOT / "protos" / "meshtrio", folder / "protos" / "meshtrio")
        yield folder


def run_grpcurl(
    socket: Path, *arguments: str, data: str | None = None, options: Sequence[str] = ()
) -> str:
    given = ["-plaintext", *options, *(["-d", data] if data else [])]
    done = subprocess.run(
        [find_tool("grpcurl"), *given, f"unix://{socket}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
