"""Run the tests on other Pythons and with the oldest dependencies: `python -m tests.versions`.

    python -m tests.versions [--only lowest,3.13,3.14] [--folder DIR] [--json] [-- PYTEST ARGUMENTS]

Python 3.13 and 3.14 are those of Debian, in root folders that debootstrap makes. Each has a clone
of the last commit and the newest dependencies. `lowest` is this Python with the oldest versions
that pyproject.toml allows, which uv chooses. Tests whose tools a root folder lacks are skipped.

Needs root, for mounts, and the programs debootstrap, git and unshare. The folders take
1 GB each; with `--folder` they are kept, and used again by the next run. Exit status 1 if a test
failed anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from tests import ROOT

DEBIAN_RELEASES = {"3.13": "trixie", "3.14": "sid"}
"""Releases of Debian, by the version of their Python."""
LOWEST = "lowest"
PYTEST_ARGUMENTS = ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not long")
SUITE_TIMEOUT = 3600.0
_PACKAGES = "python3-venv,ca-certificates,curl,git,iproute2,procps"
_HOST_FILES = ("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
"""What a root folder needs of this machine to install packages as it does."""
_ENTER = """
root=$1; shift
mount --rbind "$root" "$root"
for folder in proc sys dev; do mount --rbind "/$folder" "$root/$folder"; done
for folder in $SHARED; do mkdir -p "$root/$folder" && mount --rbind "$folder" "$root/$folder"; done
cd "$root"; mkdir -p old; pivot_root . old; umount -l old
exec "$@"
"""
"""Makes the folder the root of its mount namespace: tests make mount namespaces in turn, which a
chroot alone does not allow."""
_RUN_SUITE = """
set -e
cd /meshtrio
test -d /venv || python3 -m venv /venv
/venv/bin/pip install -q -e '.[test]'
/venv/bin/python --version
exec /venv/bin/python -m pytest --junitxml=/result.xml "$@"
"""


def report(step: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


@attrs.frozen
class Outcome:
    """What one run of the suite gave."""

    version: str
    python: str
    passed: int
    skipped: int
    failed: list[str]
    """The names of the tests that failed, or what went wrong before the first one."""
    seconds: float


class Runner:
    """Makes an environment for each version below a folder, and runs the suite in it."""

    def __init__(self, folder: Path, pytest_arguments: Sequence[str]) -> None:
        self._folder = folder
        self._pytest_arguments = pytest_arguments

    def run(self, version: str) -> Outcome:
        """Run the suite, with its output in `FOLDER/VERSION.log`."""
        log = self._folder / f"{version}.log"
        report(f"{version}: making the environment; output goes to {log}")
        began = time.monotonic()
        with log.open("w") as output:
            try:
                run = self._run_lowest if version == LOWEST else self._run_in_debian
                result = run(version, output.fileno())
            except subprocess.SubprocessError as exc:
                result = None
                report(f"{version}: {exc}")
        seconds = time.monotonic() - began
        return read_outcome(version, log, result, seconds)

    # -- Debian --------------------------------------------------------------------------------

    def _run_in_debian(self, version: str, output: int) -> Path:
        root = self._folder / DEBIAN_RELEASES[version]
        marker = root / "complete"  # lists what the folder was made with
        if not marker.exists() or marker.read_text() != _PACKAGES:
            shutil.rmtree(root, ignore_errors=True)
            options = ("--variant=minbase", f"--include={_PACKAGES}")
            command = ["debootstrap", *options, DEBIAN_RELEASES[version], str(root)]
            _run(command, output)
            marker.write_text(_PACKAGES)
        for name in _HOST_FILES:
            if Path("/", name).exists():
                shutil.copy(Path("/", name), root / name)
        (root / "result.xml").unlink(missing_ok=True)
        _clone(root / "meshtrio", output)
        report(f"{version}: installing, and running the suite")
        shared = [os.environ.get("MESHTRIO_TOOLS", ""), *_find_links()]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, "sh"]
        suite = ["sh", "-c", _RUN_SUITE, "sh", *self._pytest_arguments]
        environment = {
            **_clean_environment(),
            "SHARED": " ".join(filter(os.path.isdir, shared)),
            "TMPDIR": "/tmp",
            "HOME": "/root",
        }
        _run([*enter, str(root), *suite], output, environment, check=False)
        return root / "result.xml"

    # -- the oldest dependencies ---------------------------------------------------------------

    def _run_lowest(self, version: str, output: int) -> Path:
        folder = self._folder / version
        shutil.rmtree(folder, ignore_errors=True)
        _clone(folder / "meshtrio", output)
        for name in ("uv", "venv"):
            venv.create(folder / name, with_pip=True)
        _run([str(folder / "uv/bin/pip"), "install", "-q", "uv"], output)
        python = str(folder / "venv/bin/python")
        install = (str(folder / "uv/bin/uv"), "pip", "install", "--python", python)
        lowest = ("--resolution", "lowest-direct", "-e", ".[test]")
        _run([*install, *lowest], output, cwd=folder / "meshtrio")
        report(f"{version}: running the suite")
        result = folder / "result.xml"
        command = [python, "-m", "pytest", f"--junitxml={result}", *self._pytest_arguments]
        _run(command, output, _clean_environment(), cwd=folder / "meshtrio", check=False)
        return result


def _clean_environment() -> dict[str, str]:
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MESH_SOCKET", "XDG_RUNTIME_DIR", "CI"}
    return {key: value for key, value in os.environ.items() if key not in dropped}


def _find_links() -> list[str]:
    return os.environ.get("PIP_FIND_LINKS", "").split()


def _clone(folder: Path, output: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run(["git", "clone", "-q", str(ROOT), str(folder)], output)


def _run(
    command: list[str],
    output: int,
    environment: Mapping[str, str] | None = None,
    *,
    cwd: Path = ROOT,
    check: bool = True,
) -> None:
    """Run a command. Raises SubprocessError if it fails, which `check=False` allows."""
    subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        timeout=SUITE_TIMEOUT,
        check=check,
    )


def read_outcome(version: str, log: Path, result: Path | None, seconds: float) -> Outcome:
    """Read what pytest has written; without a result the end of the log says why."""
    text = log.read_text(errors="replace")
    python = next((line for line in text.splitlines() if line.startswith("Python ")), "")
    python = python or sys.version.split()[0]
    if result is None or not result.exists():
        return Outcome(version, python, 0, 0, [f"no result: {text[-500:]}"], seconds)
    cases = list(ET.parse(result).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Outcome(version, python, len(cases) - skipped - len(failed), skipped, failed, seconds)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.versions")
    known = [LOWEST, *DEBIAN_RELEASES]
    parser.add_argument("--only", default=",".join(known), help="by ','; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="folder that is kept; default: a new one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("pytest_arguments", nargs="*", default=PYTEST_ARGUMENTS)
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = set(options.only) - set(known)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(known)}")
    needed = ["git"] + (["debootstrap", "unshare"] if options.only != [LOWEST] else [])
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        parser.error(f"install {', '.join(missing)} first")
    if options.only != [LOWEST] and os.geteuid():
        parser.error("only root can make and enter the folders of Debian; see --only lowest")
    return options


def main() -> None:
    """Run the suite on each version, and print what it gave."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="mt-") as temporary:
        folder: Path = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        runner = Runner(folder, options.pytest_arguments)
        outcomes = []
        for version in options.only:
            outcomes.append(outcome := runner.run(version))
            report(
                f"{version} ({outcome.python}): {outcome.passed} passed, {outcome.skipped} skipped,"
                f" {len(outcome.failed)} failed in {outcome.seconds:.0f} s"
            )
            for name in outcome.failed:
                report(f"  failed: {name}")
    if options.json:
        print(json.dumps([attrs.asdict(outcome) for outcome in outcomes], indent=2))
    sys.exit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
