"""Programs that the kernel would not execute are named before it tries, with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtrio.config import PluginConfig
from meshtrio.util.executable_check import explain_not_executable
from tests import ROOT
from tests.support.process_tracking import require_namespaces

PYTHON = sys.executable


def explain(config: PluginConfig) -> str:
    return explain_not_executable(config.program())


def script(path: Path, content: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def lines(*texts: bytes) -> Callable[[Path], Path]:
    return lambda folder: script(folder / "program", b"\n".join(texts) + b"\n")


def broken_link(folder: Path) -> Path:
    (folder / "program").symlink_to(folder / "gone")
    return folder / "program"


def loop(folder: Path) -> Path:
    (folder / "program").symlink_to(folder / "program")
    return folder / "program"


def a_folder(folder: Path) -> Path:
    (folder / "program").mkdir()
    return folder / "program"


def below_a_file(folder: Path) -> Path:
    return script(folder / "program", b"") / "x"


def without_permission(folder: Path) -> Path:
    return script(folder / "program", b"#!/bin/sh\n", 0o644)


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "program", 0o755)
    return folder / "program"


def interpreter_without_permission(folder: Path) -> Path:
    script(folder / "interpreter", b"#!/bin/sh\n", 0o644)
    return script(folder / "program", b"#!" + os.fsencode(folder / "interpreter") + b"\n")


def scripts_in_a_circle(folder: Path) -> Path:
    return script(folder / "program", b"#!" + os.fsencode(folder / "program") + b"\n")


def for_another_c_library(folder: Path) -> Path:
    """As of Alpine on Debian: the program is there, and execve says that it is not."""
    content = Path("/bin/sh").resolve().read_bytes()
    begin = content.index(b"/lib", 64)
    end = content.index(b"\0", begin)
    loader = content[begin:end]
    assert b"ld-" in loader
    return script(folder / "program", content.replace(loader, loader[:-2] + b"99"))


WRONG = [
    (lambda folder: folder / "program", "is not there"),
    (broken_link, "is a symbolic link to"),
    (loop, "is a symbolic link to"),
    (below_a_file, "a part of its path is a file"),
    (a_folder, "is a folder, not a program"),
    (a_pipe, "is not a regular file"),
    (without_permission, "has no execute permission: chmod +x it"),
    (lines(b""), "does not begin with #!"),
    (lambda folder: script(folder / "program", b""), "is empty"),
    (lines(b"import os"), "#!/usr/bin/env python3"),
    (lines(b"", b"#!/bin/sh"), "has its #! line after the beginning"),
    (lines(b"\xef\xbb\xbf#!/bin/sh"), "begins with a byte order mark"),
    (lines(b"#!"), "names no interpreter"),
    (lines(b"#!   "), "names no interpreter"),
    (lines(b"#!/no/such/python"), "'/no/such/python', which the #! line of"),
    (lines(b"#! /no/such/python -u"), "'/no/such/python', which the #! line of"),
    (lines(b"#!/bin/sh\r"), "ends with CR LF"),
    (lines(b"#!/usr/bin/env python3\r"), "ends with CR LF"),
    (lines(b"#!/usr/bin/env no-such-python"), "'no-such-python', which the #! line of"),
    (lines(b"#!/usr/bin/env -S no-such-python -u"), "'no-such-python', which the #! line of"),
    (lines(b"#!/" + b"x" * 300), "longer path than the kernel takes"),
    (lines(b"#!/tmp"), "is a folder, not a program"),
    (interpreter_without_permission, "interpreter', which the #! line of"),
    (scripts_in_a_circle, "too many scripts"),
    (for_another_c_library, "another distribution or C library"),
]


@pytest.mark.parametrize(("make", "words"), WRONG)
def test_what_cannot_be_executed_is_named(
    make: Callable[[Path], Path], words: str, short_dir: Path
) -> None:
    program = make(short_dir)
    problem = explain(PluginConfig("p", [str(program)], cwd=short_dir))
    assert words in problem
    assert "program" in problem
    # The kernel agrees, or env(1), which it executes.
    try:
        done = subprocess.run([str(program)], capture_output=True, timeout=10, check=False)
    except OSError:
        return
    assert done.returncode == 127


def by_relative_interpreter(folder: Path) -> Path:
    (folder / "sh").symlink_to("/bin/sh")
    return script(folder / "program", b"#!sh\n")


def by_script(folder: Path) -> Path:
    script(folder / "interpreter", b"#!/bin/sh\n")
    return script(folder / "program", b"#!" + os.fsencode(folder / "interpreter") + b"\n")


def a_link(folder: Path) -> Path:
    (folder / "program").symlink_to("/bin/true")
    return folder / "program"


RIGHT = [
    lines(b"#!/bin/sh"),
    lines(b"#! /bin/sh \t"),
    lines(b"#!/bin/sh -e"),
    lambda folder: script(folder / "program", b"#!/bin/sh"),
    lines(b"#!/bin/sh", b"exit 0\r"),
    lines(b"#!/usr/bin/env sh"),
    lines(b"#!/usr/bin/env -S sh -e"),
    lines(b"#!/usr/bin/env -S A=1 sh"),
    by_relative_interpreter,
    by_script,
    a_link,
]


@pytest.mark.parametrize("make", RIGHT)
def test_what_can_be_executed_has_no_problem(make: Callable[[Path], Path], short_dir: Path) -> None:
    program = make(short_dir)
    assert explain(PluginConfig("p", [str(program)], cwd=short_dir)) == ""
    subprocess.run([str(program)], cwd=short_dir, timeout=10, check=True)


@pytest.mark.parametrize("program", ["{python}", "sh", "/bin/true", sys.executable])
def test_ordinary_programs_have_no_problem(program: str) -> None:
    assert explain(PluginConfig("p", [program])) == ""


def test_a_binary_of_an_unknown_kind_gets_the_benefit_of_the_doubt(short_dir: Path) -> None:
    """The kernel may have been given an interpreter for it (binfmt_misc)."""
    program = script(short_dir / "program", b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(100))
    assert explain(PluginConfig("p", [str(program)])) == ""


def test_the_path_is_that_of_the_plugin(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(short_dir / "mine", b"#!/bin/sh\n")
    missing = "'mine' is not on the PATH"
    assert explain(PluginConfig("p", ["mine"])) == missing
    path = str(short_dir)
    assert explain(PluginConfig("p", ["mine"], env={"PATH": path})) == ""
    # Relative to where the process is started.
    assert explain(PluginConfig("p", ["mine"], cwd=short_dir, env={"PATH": "."})) == ""
    monkeypatch.setenv("PATH", path)
    assert explain(PluginConfig("p", ["mine"])) == ""
    assert explain(PluginConfig("p", ["mine"], inherit_env=["PATH"])) == ""
    assert explain(PluginConfig("p", ["mine"], inherit_env=[])) == missing
    (short_dir / "folder").mkdir()
    assert explain(PluginConfig("p", ["folder"])) == "'folder' is not on the PATH"


def test_a_cwd_that_is_removed_or_no_folder_is_named(short_dir: Path) -> None:
    gone = PluginConfig("p", ["sh"], cwd=short_dir / "gone")
    assert (
        explain(gone) == f"its cwd '{short_dir}/gone' is not there: make it, or set another `cwd`"
    )
    (short_dir / "gone").touch()
    assert "is not a folder" in explain(gone)


def test_a_line_of_env_that_has_a_no_break_space_only_names_no_program(short_dir: Path) -> None:
    program = script(short_dir / "program", "#!/usr/bin/env \u00a0\n".encode())
    assert explain(PluginConfig("p", [str(program)])) == ""


def test_a_null_byte_in_a_command_is_named() -> None:
    assert explain(PluginConfig("p", ["/bin/a\0b"])).endswith("has a null byte in its path")


WITHOUT_DESCRIPTORS = """
import resource
from meshtrio.util.executable_check import Program, describe_privilege_change
program = Program("true", "/", "/usr/bin:/bin")
before = describe_privilege_change(program)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
print([before, describe_privilege_change(program)])
"""


def test_no_privilege_change_is_told_without_descriptors() -> None:
    command = [PYTHON, "-c", WITHOUT_DESCRIPTORS]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout == b"['', '']\n"


def test_a_filesystem_without_execution_is_named(short_dir: Path) -> None:
    require_namespaces()
    look = (
        "from meshtrio.config import PluginConfig as P; "
        "from meshtrio.util.executable_check import explain_not_executable as f; "
        f"print(f(P('p', ['{short_dir}/program']).program()))"
    )
    commands = (
        f"mount -t tmpfs -o noexec none {short_dir}; printf '#!/bin/sh\\n' > {short_dir}/program; "
        f'chmod +x {short_dir}/program; {PYTHON} -c "{look}"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", commands],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"is on a filesystem that is mounted noexec ({short_dir})" in done.stdout, done.stderr
    assert '["python3", "plugin.py"]' in done.stdout
