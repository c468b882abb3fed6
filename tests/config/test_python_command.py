"""Which commands a template can take over, and what their parts are."""

from __future__ import annotations

import pytest

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.config.python_command import PythonCommand
from meshtrio.util.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "interpreter", "option", "program", "arguments"),
    [
        ("python x.py", "python", "", "x.py", ""),
        ("/a/b/python3.13t x.py -m y", "/a/b/python3.13t", "", "x.py", "-m y"),
        ("python -m a.b -c d", "python", "-m", "a.b", "-c d"),
        ("python -u -OOB -c pass x", "python -u -OOB", "-c", "pass", "x"),
        ("python -X a -Wb -W c -Xd x", "python -X a -Wb -W c -Xd", "", "x", ""),
        ("python --check-hash-based-pycs a x", "python --check-hash-based-pycs a", "", "x", ""),
    ],
)
def test_parts(words: str, interpreter: str, option: str, program: str, arguments: str) -> None:
    parsed = PythonCommand.parse(words.split())
    assert parsed == PythonCommand(
        tuple(interpreter.split()), option, program, tuple(arguments.split())
    )


@pytest.mark.parametrize(
    "words",
    [
        "sh x.py",
        "env python x.py",
        "python",
        "python -m",
        "python -i x.py",
        "python -",
        "python -X",
    ],
)
def test_what_a_template_cannot_take_over(words: str) -> None:
    with pytest.raises(ValueError, match='start = "fork" is for'):
        PythonCommand.parse(words.split())


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (PluginConfig("p", ["sh"], start=StartMethod.FORK), "command: 'sh' is not a Python"),
        (PluginConfig("p", ["{python}"], start=StartMethod.FORK), "command: names no program"),
        (PluginConfig("p", ["x"], preload=["json"]), 'preload: is only for start = "fork"'),
    ],
)
def test_a_config_that_cannot_be_forked_is_refused(plugin: PluginConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        MeshConfig([plugin])


def test_preload_names_modules() -> None:
    with pytest.raises(ValueError, match="'a-b' is not the name of a module"):
        PluginConfig("p", ["{python}", "x"], start=StartMethod.FORK, preload=["a.b", "a-b"])
