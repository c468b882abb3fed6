"""Equality, hash and text of values, without code that is generated for each class."""

from __future__ import annotations


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
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, Record)
        return self._items() == other._items()

    def __hash__(self) -> int:
        return hash((self.__class__, *self._items()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._items())
        return f"{self.__class__.__qualname__}({fields})"
