"""Classes whose instances users get from functions, and cannot make themselves."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class NoPublicConstructor(ABCMeta):
    """A metaclass: calling a class raises a TypeError with its `_made_by`, which says what to do.

    This package makes instances by `create`.
    """

    _made_by: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise TypeError(f"{name} has no public constructor: {cls._made_by}")


if TYPE_CHECKING:

    def create(made: Callable[P, T], /, *args: P.args, **keywords: P.kwargs) -> T:
        """Make an instance of a class that has no public constructor."""
else:
    # Calls do not pass through another frame: two of these objects are made for each.
    create = type.__call__
