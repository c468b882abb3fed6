"""Programs of others that the tests use. `.ci/run` installs them; elsewhere a missing one skips.

Those in Go, Node and Java, which are peers, are installed by `python -m tests.tools`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT

GO_TOOLS = {
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
    "grpc-interop-client": "google.golang.org/grpc/interop/client@v1.75.0",
    "grpc-interop-server": "google.golang.org/grpc/interop/server@v1.75.0",
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
}
DEBIAN_PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "etcd": "etcd-server",
    "dnsmasq": "dnsmasq-base",
    "go": "golang",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "node": "nodejs",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "systemd-analyze": "systemd",
    "systemd-notify": "systemd",
    "systemd-socket-activate": "systemd",
    "tmux": "tmux",
}
"""Programs, and the packages that bring them."""
GO_PROGRAMS = {
    "grpc-go-activation": ROOT / "tests" / "interop" / "go_activation",
    "grpc-go-chain": ROOT / "tests" / "interop" / "go_chain",
    "grpc-go-etcd": ROOT / "tests" / "interop" / "go_etcd",
    "grpc-go-flaky": ROOT / "tests" / "interop" / "go_flaky",
    "grpc-go-metrics": ROOT / "tests" / "interop" / "go_metrics",
    "grpc-go-logging": ROOT / "tests" / "interop" / "go_logging",
    "connect-go-peer": ROOT / "tests" / "interop" / "connect_go",
    "go-service": ROOT / "examples" / "go-service",
}
"""Our own, built from their folders."""
NODE_PROGRAMS = {"grpc-js-peer": ROOT / "tests" / "interop" / "node"}
"""Folders with a `main.js` and a lock file, whose packages npm installs."""
JAVA_PROGRAMS = {"grpc-java-peer": ROOT / "tests" / "interop" / "java"}
"""Folders with a `PeerProcess.java` and a `pom.xml`, whose jars Maven copies."""
GO_MESSAGES = {
    "grpc-go-chain": {"echo/v1/echo.proto": "meshtrio/gochain/gen/echopb"},
    "grpc-go-etcd": {"echo/v1/echo.proto": "meshtrio/goetcd/gen/echopb"},
    "go-service": {
        "echo/v1/echo.proto": "meshtrio/goservice/gen/echopb",
        "meshtrio/v1/registry.proto": "meshtrio/goservice/gen/meshpb",
    },
}
"""The protos of our own, and the Go packages that are generated from them."""
VIRTUAL_ENVIRONMENTS = {
    "grpcio-observability": (
        "grpcio==1.85.0",
        "grpcio-observability==1.85.0",
        "opentelemetry-sdk==1.45.2",
        "protobuf>=6.31.1,<7",
    ),
}
"""Python packages that would not do beside our own, each in an environment of its own. There may be
none of them for this Python: tests that have use for one go without."""
PROTO_PATH = (ROOT / "protos", ROOT / "examples" / "echo-plugin")
TOOLS_DIRECTORY = Path(
    os.environ.get("MESHTRIO_TOOLS", Path.home() / ".cache" / "meshtrio" / "tools")
)


def find_tool(name: str) -> str:
    """The path of a tool. Skips the test, saying how to get it, or fails it in CI."""
    found = shutil.which(name, path=f"{TOOLS_DIRECTORY}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        text = f"{name} is missing: python -m tests.tools installs it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def find_environment_python(name: str) -> str:
    """The interpreter of an environment of ours. Skips the test where it could not be made."""
    found = TOOLS_DIRECTORY / name / "bin" / "python"
    if not found.exists():
        pytest.skip(f"{name} is missing: python -m tests.tools installs it if it can be had")
    return str(found)


def make_environment(name: str, packages: tuple[str, ...]) -> None:
    """Install packages in FOLDER, in an environment of their own, unless it is there."""
    if (TOOLS_DIRECTORY / name).exists():
        return
    print(f"installing {', '.join(packages)}", flush=True)
    # Put there when it is whole; an environment works wherever it is.
    with tempfile.TemporaryDirectory(dir=TOOLS_DIRECTORY) as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "-q", *packages]
        if subprocess.run(pip, check=False).returncode:
            print(f"{name} cannot be had here")
        else:
            shutil.copytree(folder, TOOLS_DIRECTORY / name, symlinks=True)


def find_debian_tool(name: str) -> str:
    """The path of a program that a package of Debian brings; where it is missing, as `tool`."""
    found = shutil.which(name)
    if found is None:
        text = f"{name} is missing: apt-get install {DEBIAN_PACKAGES[name]}, or the like, brings it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def install_go_tool(name: str, package: str) -> None:
    """Put a tool into FOLDER with `go install`, unless it is there."""
    if (TOOLS_DIRECTORY / name).exists():
        return
    print(f"installing {name} from {package}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # Built apart, since two of them are called after their folders: client and server.
        subprocess.run(["go", "install", package], env={**os.environ, "GOBIN": folder}, check=True)
        built = next(Path(folder).iterdir())
        shutil.move(built, TOOLS_DIRECTORY / name)


def generate_go_code(packages: dict[str, str], folder: Path) -> None:
    """Write the Go code of protos into the module in a folder; needs grpcio-tools."""
    module = (folder / "go.mod").read_text().split()[1]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in PROTO_PATH)]
    for kind in ("go", "go-grpc"):
        command.append(f"--plugin={TOOLS_DIRECTORY / f'protoc-gen-{kind}'}")
        command += [f"--{kind}_out={folder}", f"--{kind}_opt=module={module}"]
        command += [f"--{kind}_opt=M{proto}={package}" for proto, package in packages.items()]
    subprocess.run([*command, *packages], check=True)


def build_go_program(name: str, source: Path) -> None:
    """Compile a program of our own into FOLDER."""
    print(f"building {name} from {source}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # Away from the source, where the sums of the modules would be written.
        shutil.copytree(source, folder, dirs_exist_ok=True)
        if name in GO_MESSAGES:
            generate_go_code(GO_MESSAGES[name], Path(folder))
        for command in (["mod", "tidy"], ["build", "-o", str(TOOLS_DIRECTORY / name), "."]):
            subprocess.run(["go", *command], cwd=folder, check=True)


def can_build(name: str, *builders: str) -> bool:
    """Return whether these programs are there to build a peer; in CI they have to be."""
    missing = ", ".join(builder for builder in builders if shutil.which(builder) is None)
    if missing and os.environ.get("CI"):
        sys.exit(f"{name} cannot be built without {missing}")
    if missing:
        print(f"{name} is not built, since {missing} is missing")
    return not missing


def build_program_directory(
    name: str, source: Path, command: str, compile_in: Callable[[Path], object]
) -> None:
    """Build a program that is a folder, and a script in FOLDER that runs it.

    Args:
        name: of the script; the folder is called after it.
        source: whose files are copied into the folder. Nothing is done if the folder was built
            from the same files already.
        command: of the script, a shell command in which `$files` is the folder.
        compile_in: builds in the copied folder.
    """
    files = sorted(path for path in source.iterdir() if path.is_file())
    content = [command.encode(), *(path.read_bytes() for path in files)]
    digest = hashlib.sha256(b"\0".join(content)).hexdigest()
    target, stamp = TOOLS_DIRECTORY / f"{name}.files", Path("source.sha256")
    if (target / stamp).exists() and (target / stamp).read_text() == digest:
        return
    print(f"building {name} from {source}", flush=True)
    with tempfile.TemporaryDirectory(dir=TOOLS_DIRECTORY) as parent:
        # Put there when it is whole.
        folder = Path(parent) / "files"
        folder.mkdir()
        for path in files:
            shutil.copy(path, folder)
        compile_in(folder)
        (folder / stamp).write_text(digest)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    script = TOOLS_DIRECTORY / name
    script.write_text(f'#!/bin/sh\nfiles="${{0%/*}}/{name}.files"\nexec {command} "$@"\n')
    script.chmod(0o755)


def install_node_packages(folder: Path) -> None:
    """Install what the lock file names; no package's own scripts are run."""
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    subprocess.run(["npm", "ci", "--omit=dev", "--ignore-scripts", *quiet], cwd=folder, check=True)


def compile_java(folder: Path) -> None:
    """Copy the jars that the pom names to `lib`, and compile into `classes`."""
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
    subprocess.run(["mvn", "-q", "-B", *copy], cwd=folder, check=True)
    sources = [path.name for path in folder.glob("*.java")]
    compiler = ["javac", "-d", "classes", "-cp", "lib/*"]
    subprocess.run([*compiler, *sources], cwd=folder, check=True)


NODE_COMMAND = 'node "$files/main.js"'
JAVA_COMMAND = (
    # A short start matters more than a fast program.
    'java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m -cp "$files/classes:$files/lib/*" Peer'
)


def main() -> None:
    """Install what is missing into FOLDER, and build our own.

    Needs Go and pip; and npm, Maven and a JDK for the peers in Node and Java, which are left out
    where these are missing, except in CI.
    """
    TOOLS_DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, package in GO_TOOLS.items():
        install_go_tool(name, package)
    for name, source in GO_PROGRAMS.items():
        build_go_program(name, source)
    for name, source in NODE_PROGRAMS.items():
        if can_build(name, "node", "npm"):
            build_program_directory(name, source, NODE_COMMAND, install_node_packages)
    for name, source in JAVA_PROGRAMS.items():
        if can_build(name, "java", "javac", "mvn"):
            build_program_directory(name, source, JAVA_COMMAND, compile_java)
    for name, packages in VIRTUAL_ENVIRONMENTS.items():
        make_environment(name, packages)


if __name__ == "__main__":
    main()
