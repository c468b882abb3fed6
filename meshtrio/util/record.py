"""Values: their constructor, equality, hash and text, without code generated for each class."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any, Self, dataclass_transform

import attrs


class Record:
    """Base of classes whose instances are compared, hashed and shown by their slots.

    attrs compiles such methods for each class, which takes longer at import than all else that a
    class needs, and every plugin and command imports dozens of classes. Meant for values that are
    rarely compared: these methods are slower than compiled ones.
    """

    __slots__ = ()

    def _items(self) -> list[tuple[str, object]]:
        slots: tuple[str, ...] = self.__slots__
        return [(name, getattr(self, name)) for name in slots if name != "__weakref__"]

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, Record)
        return self._items() == other._items()

    def __hash__(self) -> int:
        return hash((self.__class__, *self._items()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._items())
        return f"{self.__class__.__qualname__}({fields})"


@dataclass_transform(frozen_default=True)
class FrozenRecordType(type):
    """Type of the subclasses of `FrozenRecord`: makes slots of the fields in a class's body."""

    _defaults: dict[str, Any]

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
    ) -> FrozenRecordType:
        fields = tuple(namespace.get("__annotations__", ()))
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}
        namespace["__slots__"] = namespace["__match_args__"] = fields
        made = super().__new__(cls, name, bases, namespace)
        made._defaults = defaults
        return made

    @property
    def __signature__(cls) -> Signature:
        """The arguments with their types and defaults, for `inspect.signature`."""
        kind, types = Parameter.POSITIONAL_OR_KEYWORD, cls.__annotations__
        return Signature(
            [
                Parameter(
                    *(name, kind),
                    default=cls._defaults.get(name, Parameter.empty),
                    annotation=types[name],
                )
                for name in types
            ]
        )


class FrozenRecord(Record, metaclass=FrozenRecordType):
    """Base of records that are declared as attrs and dataclasses are, and cannot be changed.

        class Address(FrozenRecord):
            host: str
            port: int = 0

    `__post_init__` may validate the values. The constructor takes 2 µs, so that objects of calls
    are better made by one of their own. Fields cannot be inherited.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        slots, defaults = self.__slots__, type(self)._defaults
        if len(args) > len(slots):
            raise self._argument_error(f"takes {len(slots)} arguments but {len(args)} were given")
        values = dict(zip(slots, args, strict=False))
        for name in keywords:
            if name in values:
                raise self._argument_error(f"got multiple values for argument {name!r}")
            if name not in slots:
                raise self._argument_error(f"got an unexpected keyword argument {name!r}")
        values = {**defaults, **values, **keywords}
        for name in slots:
            if name not in values:
                raise self._argument_error(f"missing a required argument: {name!r}")
            object.__setattr__(self, name, values[name])
        self.__post_init__()

    def __post_init__(self) -> None:
        """Validate the values; does nothing by default."""

    def _argument_error(self, text: str) -> TypeError:
        return TypeError(f"{type(self).__qualname__}.__init__() {text}")

    def __setattr__(self, name: str, value: object) -> None:
        raise attrs.exceptions.FrozenInstanceError

    def __delattr__(self, name: str) -> None:
        raise attrs.exceptions.FrozenInstanceError

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), tuple(value for _, value in self._items())

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values of the fields that are named."""
        return type(self)(**{**dict(self._items()), **changes})
