"""[[task]] tables, and depends_on with conditions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from meshtrio.config import (
    Dependency,
    DependencyCondition,
    GroupConfig,
    MeshConfig,
    PluginConfig,
    RestartPolicy,
    StartMethod,
    TaskConfig,
    load,
)
from meshtrio.errors import ConfigError
from meshtrio.runtime_dir import directory
from meshtrio.util.backoff import Backoff

READY, COMPLETED = DependencyCondition.READY, DependencyCondition.COMPLETED


def write(folder: Path, text: str) -> Path:
    path = folder / "mesh.toml"
    path.write_text(text)
    return path


def plugin(name: str, **settings: Any) -> PluginConfig:
    return PluginConfig(name, ["true"], **settings)


def task(name: str, **settings: Any) -> TaskConfig:
    return TaskConfig(name, ["true"], **settings)


def test_a_table_is_read(tmp_path: Path) -> None:
    text = """
[[plugin]]
name = "db"
command = ["true"]
[[task]]
name = "full"
command = ["true", "x"]
depends_on = { db = "ready", least = "completed" }
schedule = "*/5 * * * *"
timezone = "Europe/Berlin"
timeout = 60
retries = 2
backoff = { initial = 1 }
env = { A = "b" }
inherit_env = ["PATH"]
cwd = "."
containment = { umask = 7 }
output = { kept = 5 }
stop_timeout = 1
[[task]]
name = "least"
command = ["true"]
"""
    full, least = load(write(tmp_path, text)).tasks
    assert full == TaskConfig(
        "full",
        ["true", "x"],
        depends_on={"db": "ready", "least": COMPLETED},
        schedule="*/5 * * * *",
        timezone="Europe/Berlin",
        timeout=60,
        retries=2,
        backoff=Backoff(initial=1),
        env={"A": "b"},
        inherit_env=["PATH"],
        cwd=tmp_path,
        containment=full.containment,
        output=full.output,
        stop_timeout=1,
    )
    assert (full.containment.umask, full.output.kept) == (7, 5)
    assert least == TaskConfig("least", ["true"], cwd=tmp_path)


def test_dependencies_are_names_or_names_with_conditions() -> None:
    assert plugin("x", depends_on=["a", Dependency("b", COMPLETED)]).depends_on == (
        Dependency("a", READY),
        Dependency("b", COMPLETED),
    )
    assert plugin("x", depends_on={"a": "completed"}).depends_on == (Dependency("a", COMPLETED),)


def test_dependencies_of_groups_apply_to_their_members() -> None:
    config = MeshConfig(
        [plugin("a"), plugin("b", depends_on=["db"]), plugin("db")],
        [GroupConfig("g", ["a", "b"], depends_on={"t": "completed"})],
        tasks=[task("t", depends_on=["db"]), task("u", depends_on=["g"])],
    )
    topology = config.topology()
    assert topology.dependencies() == {
        "a": frozenset(),
        "b": {"db"},
        "db": frozenset(),
        "t": {"db"},
        "u": {"a", "b"},
    }
    assert {name: {*needed} for name, needed in topology.completions().items() if needed} == {
        "a": {"t"},
        "b": {"t"},
    }


WRONG = {
    "no command": ('name = "t"', "command: is missing"),
    "a shell's line": ('name = "t"\ncommand = "true"', "it is run without a shell"),
    "no program": ('name = "t"\ncommand = ["/nowhere"]', "command: "),
    "a name": ('name = "-t"\ncommand = ["true"]', "is not a name"),
    "a schedule": (
        'name = "t"\ncommand = ["true"]\nschedule = "* 24 * * *"',
        "task 't': schedule: '* 24 * * *': the hour, field 2, cannot be '24'",
    ),
    "a zone": (
        'name = "t"\ncommand = ["true"]\nschedule = "* * * * *"\ntimezone = "Mars"',
        "timezone: 'Mars' is not a time zone of this machine",
    ),
    "a zone without a schedule": (
        'name = "t"\ncommand = ["true"]\ntimezone = "UTC"',
        "timezone: is only for a task with a schedule",
    ),
    "a timeout": ('name = "t"\ncommand = ["true"]\ntimeout = 0', "timeout: must be more than 0"),
    "retries": ('name = "t"\ncommand = ["true"]\nretries = -1', "retries: must be at least 0"),
    "a variable": ('name = "t"\ncommand = ["true"]\nenv = { MESH_ID = "x" }', "set by the mesh"),
    "a key of plugins": ('name = "t"\ncommand = ["true"]\ninstances = 2', "is not a key"),
    "dependencies": (
        'name = "t"\ncommand = ["true"]\ndepends_on = { p = "done" }',
        "depends_on: 'p' must be \"ready\" or \"completed\", not 'done'",
    ),
    "dependencies of a type": (
        'name = "t"\ncommand = ["true"]\ndepends_on = "p"',
        'depends_on: must be a list of names, or a table as { db = "ready" }',
    ),
    "backoff": (
        'name = "t"\ncommand = ["true"]\nbackoff = { initial = 2, maximum = 1 }',
        "initial is more than maximum",
    ),
    "a hash": (
        f'name = "t"\ncommand = ["true"]\ncontainment = {{ script_sha256 = "{"0" * 64}" }}',
        "containment.script_sha256: ",
    ),
}


@pytest.mark.parametrize(("table", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_table(table: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'[[plugin]]\nname = "p"\ncommand = ["true"]\n[[task]]\n{table}\n')
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        load(path)
    assert all(problem.startswith(f"{path}: task ") for problem in caught.value.problems)


NEVER = {"restart": RestartPolicy.NEVER}
WRONG_TOGETHER: dict[str, tuple[list[PluginConfig], list[TaskConfig], str]] = {
    "a task in a list": (
        [plugin("p", depends_on=["t"])],
        [task("t")],
        "plugin 'p': depends_on: 't' is a task, which is never ready; write { t = \"completed\" }",
    ),
    "a task that is to be ready": (
        [],
        [task("t"), task("u", depends_on={"t": "ready"})],
        "task 'u': depends_on: 't' is a task, which is never ready",
    ),
    "a scheduled task": (
        [plugin("p", depends_on={"t": "completed"})],
        [task("t", schedule="* * * * *")],
        "'t' has a schedule, and so never has completed",
    ),
    "a plugin that is always restarted": (
        [plugin("p", depends_on={"q": "completed"}), plugin("q")],
        [],
        "'q' is always restarted, and so never completes",
    ),
    "a plugin that is started on demand": (
        [
            plugin("p", depends_on={"q": "completed"}),
            plugin("q", start=StartMethod.ON_DEMAND, listen_fds=True, **NEVER),
        ],
        [],
        "'q' is started on demand again whenever it has ended, and so never completes",
    ),
    "unknown": ([], [task("t", depends_on=["x"])], "'x' is no plugin, group or task"),
    "a cycle": (
        [plugin("p", depends_on={"t": "completed"})],
        [task("t", depends_on=["p"])],
        "depends_on: dependency cycle: p → t → p",
    ),
    "a cycle of tasks": (
        [plugin("p", **NEVER)],
        [task("t", depends_on={"u": "completed"}), task("u", depends_on={"t": "completed"})],
        "task 't': depends_on: dependency cycle: t → u → t",
    ),
    "a name of a plugin": ([plugin("t")], [task("t")], "task 't': a plugin has this name too"),
    "one name": ([], [task("t"), task("t")], "two tasks are named 't'"),
}


@pytest.mark.parametrize(
    ("plugins", "tasks", "reason"), WRONG_TOGETHER.values(), ids=WRONG_TOGETHER
)
def test_what_cannot_be_together(
    plugins: list[PluginConfig], tasks: list[TaskConfig], reason: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        MeshConfig(plugins, tasks=tasks)
    assert len(caught.value.problems) == 1


def test_a_group_of_the_name_of_a_task_or_with_a_task() -> None:
    with pytest.raises(ConfigError, match="task 'g': a group has this name too"):
        MeshConfig([plugin("p")], [GroupConfig("g", ["p"])], tasks=[task("g")])
    with pytest.raises(ConfigError, match="'t' is a task; only plugins and groups are members"):
        MeshConfig([plugin("p")], [GroupConfig("g", ["p", "t"])], tasks=[task("t")])


def test_users_of_tasks_are_checked(tmp_path: Path) -> None:
    text = '[[task]]\nname = "t"\ncommand = ["true"]\ncontainment = { user = "no-such-user" }\n'
    with pytest.raises(ConfigError, match="task 't': containment: "):
        directory.validate(load(write(tmp_path, text)))
