"""The names that `import meshtrio` offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from inspect import getdoc, isclass, isfunction

import pytest

import meshtrio


def names_for_type_checkers() -> set[str]:
    """Return what type checkers find: the names imported by the TYPE_CHECKING block."""
    assert meshtrio.__file__ is not None
    with open(meshtrio.__file__, encoding="utf-8") as file:
        (block,) = (node for node in ast.parse(file.read()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_type_checkers_and_programs_find_the_same_names() -> None:
    modules = {"config", "contract", "errors", "mesh", "plugin", "stubs"}
    assert set(meshtrio.__all__) == names_for_type_checkers() | modules
    assert len(meshtrio.__all__) == len(set(meshtrio.__all__))
    assert set(meshtrio.__all__) <= set(dir(meshtrio))


@pytest.mark.parametrize("name", meshtrio.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    found = getattr(meshtrio, name)
    if isclass(found) or isfunction(found):
        assert getdoc(found)
    if isclass(found):
        assert found.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'meshtrio' has no attribute 'Chanel'"):
        meshtrio.Chanel  # noqa: B018


def test_the_package_itself_imports_next_to_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); import meshtrio; from meshtrio import plugin;"
        "print(sorted(m for m in sys.modules if m.startswith('meshtrio.client')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
