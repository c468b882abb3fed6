"""grpc-go as a peer of the benchmark: `python -m tests.benchmarks.grpc_go` builds it, with Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.tools import TOOLS_DIRECTORY

PROGRAM = TOOLS_DIRECTORY / "grpc-go-bench"
PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
)
_PROTO = "echo/v1/echo.proto"
_MAPPED = f"M{_PROTO}=meshtrio/bench/echo"


def build(work: Path) -> None:
    """Generate the messages and compile, in a folder of the caller's; needs Go and grpcio-tools."""
    from grpc_tools import protoc

    for path in (*Path(__file__).parent.glob("*.go"), Path(__file__).parent / "go.mod"):
        shutil.copy(path, work)
    environment = {**os.environ, "GOBIN": str(work / "bin"), "GOFLAGS": "-mod=mod"}
    for plugin in PLUGINS:
        subprocess.run(["go", "install", plugin], env=environment, cwd="/", check=True)
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'examples' / 'echo-plugin'}",
            f"--plugin={work / 'bin' / 'protoc-gen-go'}",
            f"--plugin={work / 'bin' / 'protoc-gen-go-grpc'}",
            *(
                f"--{kind}={value}"
                for out in ("go", "go-grpc")
                for kind, value in (
                    (f"{out}_out", str(work)),
                    (f"{out}_opt", _MAPPED),
                    (f"{out}_opt", "module=meshtrio/bench"),
                )
            ),
            _PROTO,
        ]
    )
    if code:
        raise SystemExit("protoc failed")
    subprocess.run(["go", "mod", "tidy"], env=environment, cwd=work, check=True)
    TOOLS_DIRECTORY.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], env=environment, cwd=work, check=True)


def measure(case: str, address: str, seconds: float, width: int = 1, size: int = 90) -> Any:
    """Run a case of the built program, give what it printed; `width` is the rate of a paced one."""
    command = [str(PROGRAM), case, address, str(seconds), str(width), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        if line == "ready\n":
            print("ready", flush=True)
            line = running.stdout.readline()
    return json.loads(line)
