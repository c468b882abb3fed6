"""Build the sdist and the wheel, and use what was built: `python -m tests.release`.

    python -m tests.release [--output dist]

The version of a clone with a tag, of one without and of a tree without git is what pyproject.toml
promises. The sdist has the files that git has, and the wheel, which is built from the sdist, those
of the package. The wheel is then installed into an empty virtual environment, in which a new plugin
is made, tested, served and called. Nothing of that sees this tree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

from build.util import project_wheel_metadata

from tests import ROOT

COMMAND_TIMEOUT = 1200.0
CALL_TIMEOUT = 120
STOP_TIMEOUT = 60.0
VERSION_FILE = "meshtrio/util/_version.py"
ONLY_IN_SDIST = {"PKG-INFO", VERSION_FILE}
ONLY_IN_GIT = {".ci/run"}


def report(step: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {step}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Run a command and return its stdout; on failure, exit with all that it has written."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
        check=False,
    )
    if done.returncode:
        line = " ".join(str(part) for part in command)
        sys.exit(f"{line}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def stop(process: subprocess.Popen[bytes]) -> int:
    """Stop a process by SIGTERM, and return its exit status."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_TIMEOUT)
    finally:
        process.kill()


def require_equal(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Exit with the differences between two sets of names, if there are any."""
    extra, missing = set(found) - set(expected), set(expected) - set(found)
    if extra or missing:
        sys.exit(f"{what}: missing {sorted(missing)}, not expected {sorted(extra)}")


def check_versions(folder: Path) -> None:
    """Check the versions of trees that have no tag, a tag, and no repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    fallback = project["tool"]["hatch"]["version"]["fallback-version"]
    if f'VERSION = "{fallback}"' not in (ROOT / "meshtrio/util/version.py").read_text():
        sys.exit(f"meshtrio/util/version.py has another version than {fallback}")
    clone = folder / "clone"
    run("git", "clone", "-q", "--depth", "1", "--no-tags", ROOT.as_uri(), clone)

    def check(tree: str, pattern: str) -> None:
        version = project_wheel_metadata(clone, isolated=False)["Version"]
        report(f"version of {tree}: {version}")
        if re.fullmatch(pattern, version) is None:
            sys.exit(f"expected a version like {pattern}")

    check("a shallow clone without tags", re.escape(fallback[:-1]) + r"\d+\+g\w+")
    run("git", "tag", "v98.7.6", cwd=clone)
    check("a clone with the tag v98.7.6", r"98\.7\.6")
    shutil.rmtree(clone / ".git")
    check("a tree without git", re.escape(fallback))


def build(folder: Path) -> tuple[Path, Path]:
    """Build both, the wheel from the sdist, and return their paths."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    report(f"built {sdist.name} ({sdist.stat().st_size / 1e6:.1f} MB)")
    report(f"built {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB)")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    tracked = set(run("git", "ls-files", "-z").split("\0")) - {""}
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    require_equal("the sdist", files, tracked - ONLY_IN_GIT | ONLY_IN_SDIST)
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {name for name in tracked if name.startswith("meshtrio/")}
    require_equal("the wheel", files, package | {VERSION_FILE})


class Installation:
    """The wheel in an empty virtual environment, and a folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._binaries = folder / "venv" / "bin"
        self._folder = folder / "work"
        self._folder.mkdir()
        runtime_dir = folder / "run"
        runtime_dir.mkdir(mode=0o700)
        venv.create(folder / "venv", with_pip=True)
        dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MESH_SOCKET"}
        self._environment = {key: os.environ[key] for key in os.environ if key not in dropped}
        self._environment["PATH"] = f"{self._binaries}{os.pathsep}{os.environ['PATH']}"
        self._environment["XDG_RUNTIME_DIR"] = str(runtime_dir)
        self._wheel = wheel

    def run(self, program: str, *arguments: str, folder: str = "") -> str:
        command = (self._binaries / program, *arguments)
        return run(*command, cwd=self._folder / folder, environment=self._environment)

    def install(self, extras: str = "", *others: str) -> None:
        report(f"installing the wheel{extras} into an empty environment")
        self.run("python", "-m", "pip", "install", "-q", f"{self._wheel}{extras}", *others)

    def check_version(self) -> None:
        version = self._wheel.name.split("-")[1]
        printed = self.run("meshtrio", "--version")
        if printed != f"meshtrio, version {version}\n":
            sys.exit(f"expected version {version}, but meshtrio --version printed: {printed}")
        home = self.run("python", "-c", "import meshtrio; print(meshtrio.__file__)")
        if not home.startswith(str(self._binaries.parent)):
            sys.exit(f"meshtrio is imported from {home}")

    def serve_and_call(self, folder: str, method: str, request: str) -> str:
        """Serve the mesh of a folder, and return the reply of one call."""
        with subprocess.Popen(
            [self._binaries / "meshtrio", "serve", "mesh.toml"],
            cwd=self._folder / folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
        ) as mesh:
            try:
                call = ("call", "--wait", "--timeout", str(CALL_TIMEOUT), f"plugin.{folder}")
                reply = self.run("meshtrio", *call, method, request)
            finally:
                status = stop(mesh)
        if status:
            sys.exit(f"meshtrio serve ended with exit status {status}")
        return reply


def use(folder: Path, wheel: Path) -> None:
    """Do what the tutorial does, with nothing but the wheel."""
    installation = Installation(folder, wheel)
    installation.install()
    installation.check_version()
    installation.install("[gen]", "pytest", "pytest-trio")
    report("meshtrio new greeter, and its tests")
    installation.run("meshtrio", "new", "greeter")
    print(installation.run("python", "-m", "pytest", "-q", folder="greeter"), end="", flush=True)
    report("meshtrio serve, and meshtrio call")
    method = "greeter.v1.GreeterService/Greet"
    reply = installation.serve_and_call("greeter", method, '{"name": "you"}')
    print(reply, end="", flush=True)
    if json.loads(reply) != {"text": "Hello, you!"}:
        sys.exit("that is another reply than the plugin's")


def main() -> None:
    """Check versions, build, and use the wheel; `--output` keeps what was built."""
    parser = argparse.ArgumentParser(prog="python -m tests.release")
    parser.add_argument("--output", type=Path, help="folder for the sdist and the wheel")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        check_versions(folder)
        sdist, wheel = build(folder / "dist")
        check_contents(sdist, wheel)
        use(folder, wheel)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for path in (sdist, wheel):
                shutil.copy(path, output)
    report("the release is fine")


if __name__ == "__main__":
    main()
