"""A Sphinx extension that makes the API reference from the docstrings of meshtrio.

Docstrings are converted to reST (`docstring_markup`) before napoleon sees them. Signatures of attrs
classes show the defaults of the fields, and classes that programs do not call have none. Code in
docstrings is a link if it is a public name.
"""

from __future__ import annotations

import inspect
from enum import Enum, EnumType
from typing import Any

import attrs
from docstring_markup import to_rest
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import meshtrio
from meshtrio.cluster import connecting
from meshtrio.util.no_public_constructor import NoPublicConstructor
from meshtrio.util.record import FrozenRecordType

# Imported for type checkers only; without it no type of the signature would be resolved.
vars(connecting)["DiscoveryConfig"] = meshtrio.DiscoveryConfig
_ALIASES = ("Interceptor", "ServerInterceptor")
_PREFIXES = ("meshtrio.", "meshtrio.mesh.", "meshtrio.plugin.")
"""What docstrings leave out of public names."""


def _process_docstring(
    _app: Sphinx, kind: str, _name: str, _found: object, _options: object, lines: list[str]
) -> None:
    lines[:] = to_rest(lines, kind)


def _process_signature(
    _app: Sphinx,
    kind: str,
    _name: str,
    found: Any,
    _options: object,
    arguments: str | None,
    result: str | None,
) -> tuple[str, str | None] | None:
    if kind not in ("class", "exception"):
        return (
            None
            if arguments is None
            else (_use_aliases(arguments), result and _use_aliases(result))
        )
    if isinstance(found, NoPublicConstructor | EnumType) or getattr(found, "_is_protocol", False):
        return "", None
    is_record = isinstance(found, FrozenRecordType)
    return (make_signature(found), None) if is_record or attrs.has(found) else None


def _use_aliases(signature: str) -> str:
    """Name the public aliases of types, which Python has replaced by what they stand for."""
    for name in _ALIASES:
        expanded = stringify_annotation(getattr(meshtrio, name), "smart")
        signature = signature.replace(expanded, f"~meshtrio.{name}")
    return signature


def make_signature(cls: type) -> str:
    """Return the arguments of an attrs class or record, with their defaults.

    The fields have the types.
    """
    if isinstance(cls, FrozenRecordType):
        parameters = inspect.signature(cls).parameters.values()
        defaults = (attrs.NOTHING if p.default is p.empty else p.default for p in parameters)
        found = zip(parameters, defaults, strict=True)
        return f"({', '.join(f'{p.name}{_default(default)}' for p, default in found)})"
    arguments = []
    for field in attrs.fields(cls):
        if not field.init:
            continue
        if field.kw_only and "*" not in arguments:
            arguments.append("*")
        arguments.append(f"{field.alias}{_default(field.default)}")
    return f"({', '.join(arguments)})"


def _default(value: Any) -> str:
    if value is attrs.NOTHING:
        return ""
    if isinstance(value, Enum):
        return f"={type(value).__name__}.{value.name}"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return f"={value.factory.__name__}()" if isinstance(value.factory, type) else "=..."
    is_plain = value is None or isinstance(value, bool | int | float | str | tuple)
    return f"={value!r}" if is_plain else "=..."


def _resolve_reference(
    app: Sphinx, env: Any, node: nodes.Element, content: nodes.TextElement
) -> nodes.Node | None:
    """Link code to the public name that it is, if it is one.

    Types of other packages are left without a link, and other names of meshtrio are an error.
    """
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"].removesuffix("()")
    if node["reftype"] != "obj":
        return None if target.startswith("meshtrio.") else content
    objects = env.domains.python_domain.objects
    for prefix in _PREFIXES:
        if found := objects.get(prefix + target):
            page, anchor = found.docname, found.node_id
            return make_refnode(app.builder, node["refdoc"], page, anchor, content, target)
    return content


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, whose priority is 500:
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)
    app.connect("autodoc-process-signature", _process_signature)
    app.connect("missing-reference", _resolve_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
