"""Go programs the tests use as peers. `.ci/run` installs them; elsewhere a missing one skips."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

GO_TOOLS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
    "grpc-interop-client": "google.golang.org/grpc/interop/client@v1.75.0",
    "grpc-interop-server": "google.golang.org/grpc/interop/server@v1.75.0",
}
GO_PROGRAMS = {"grpc-go-flaky": Path(__file__).parent / "interop" / "go_flaky"}
"""Our own, built from their folders."""
FOLDER = Path(os.environ.get("MESHTRIO_TOOLS", Path.home() / ".cache" / "meshtrio" / "tools"))


def tool(name: str) -> str:
    """The path of a tool. Skips the test, saying how to get it, or fails it in CI."""
    found = shutil.which(name, path=f"{FOLDER}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        text = f"{name} is missing: python -m tests.tools installs it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def main() -> None:
    """Install what is missing into FOLDER with `go install`; needs Go."""
    import subprocess
    import tempfile

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, package in GO_TOOLS.items():
        if (FOLDER / name).exists():
            continue
        print(f"installing {name} from {package}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # Built apart, since two of them are called after their folders: client and server.
            subprocess.run(
                ["go", "install", package], env={**os.environ, "GOBIN": folder}, check=True
            )
            built = next(Path(folder).iterdir())
            shutil.move(built, FOLDER / name)
    for name, source in GO_PROGRAMS.items():
        print(f"building {name} from {source}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # Away from the source, where the sums of the modules would be written.
            shutil.copytree(source, folder, dirs_exist_ok=True)
            for command in (["mod", "tidy"], ["build", "-o", str(FOLDER / name), "."]):
                subprocess.run(["go", *command], cwd=folder, check=True)


if __name__ == "__main__":
    main()
