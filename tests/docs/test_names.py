"""Names and links in the docs exist, and design.md's "Finding your way" leads to functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meshtrio.cli import commands
from meshtrio.supervisor import events
from tests import ROOT

PACKAGE = ROOT / "meshtrio"
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted(ROOT.glob("docs/**/*.md"))
        if page.name != "changelog.md" and "_build" not in page.parts
    ),
]
PAGES_WITH_MODULES = ("README.md", "docs/design.md", "docs/contributing.md")
EXTERNAL_NAMES = frozenset(
    {
        *("startsecs", "startretries", "autorestart", "killasgroup"),  # supervisord
        *("max_retry", "before_start", "after_spawn"),  # circus
        *("AutoMTLS", "GRPCBroker"),  # go-plugin
        *("to_asyncio", "time_remaining"),  # tractor, grpcio
        *("forbid_extra_keys", "transform_error"),  # cattrs
        *("KillMode", "RuntimeDirectory", "StateDirectory", "TimeoutStopSec"),  # systemd.exec(5)
        *(
            "DynamicUser",
            "ExecReload",
            "TimeoutStartSec",
            "RestartPreventExitStatus",
            "LimitNOFILE",
            "DelegateSubgroup",
            "RuntimeDirectoryPreserve",
        ),
        *("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"),
        *(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "_CLIENT_CERTIFICATE",
            "_CLIENT_KEY",
        ),  # more of them
        *("ServerOption", "DialOption", "WithAuthority"),  # grpc-go
        *("keyManager", "overrideAuthority"),  # grpc-java
        "default_authority",  # grpcio and grpc-js
        *("client_golang", "target_info", "a_b", "hits_total"),  # Prometheus, and examples
        *("otel_scope_name", "otel_scope_version", "otel_scope_schema_url", "_message_size"),
        "sched_yield",
        "MESHTRIO_SCREENSHOTS",  # of the tests
        *("callId", "sequenceIdWithinCall", "payloadTruncated"),  # GrpcLogEntry as JSON
        *("SetSink", "NewTempFileSink", "decode_raw", "OTEL_PROPAGATORS"),
    }
)
"""Names of other programs that the docs mention and the code does not."""
_EVENT_KINDS = {
    kind.__name__
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, events.LifecycleEvent)
}
EVENT_NAMES = {re.sub("(?<!^)(?=[A-Z])", "_", name).lower() for name in _EVENT_KINDS}
"""Names of lifecycle events in the log, and of their base classes."""
_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_METRIC = re.compile(r"(grpc|mesh|meshtrio)_[a-z_]+")


def _section(heading: str) -> str:
    text = (ROOT / "docs" / "design.md").read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _rows(section: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a table."""
    for line in section.splitlines():
        if line.startswith("| ") and "---" not in line:
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


PATHS = list(_rows(_section("Finding your way")))[1:]


def _defines(module: Path, name: str) -> bool:
    """Decide whether a module defines a function, a class, or a method `Class.method`."""
    body = ast.parse(module.read_text()).body
    for part in name.split("."):
        found = next(
            (
                node
                for node in body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name == part
            ),
            None,
        )
        if found is None:
            return False
        body = found.body
    return True


@pytest.mark.parametrize("row", PATHS, ids=[row[0] for row in PATHS])
def test_a_path_leads_to_a_function(row: list[str]) -> None:
    _, package, where = row
    package = package.strip("`/")
    assert f"{package.rpartition('/')[2]}/`" in _section("Packages")
    places = re.findall(r"`([a-z0-9_/]+\.py)`: `([\w.]+)`", where)
    assert places
    introduction = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text()))
    assert introduction is not None
    assert re.search(rf"\b{Path(places[0][0]).stem}\b", introduction)
    for module, name in places:
        assert _defines(PACKAGE / module, name), f"{module} has no {name}"


def test_the_readme_leads_to_the_paths() -> None:
    assert len(PATHS) >= 10
    assert "(docs/design.md#finding-your-way)" in (ROOT / "README.md").read_text()


def _code_names() -> set[str]:
    """Collect all words of the code, and the names of its files."""
    found: set[str] = set()
    for pattern in ("meshtrio/**/*.py", "protos/**/*.proto", "examples/**/*", "pyproject.toml"):
        for path in ROOT.glob(pattern):
            if path.is_file():
                found.update(_WORD.findall(path.read_text(errors="replace")))
    for path in PACKAGE.rglob("*"):
        found.add(path.stem)
    return found


def _looks_like_code(word: str) -> bool:
    return "_" in word.strip("_") or re.search("[a-z][A-Z]", word) is not None


def test_names_of_code_exist() -> None:
    known = _code_names() | EXTERNAL_NAMES | EVENT_NAMES
    missing = [
        f"{page.relative_to(ROOT)}: {word} in `{span}`"
        for page in PAGES
        for span in _SPAN.findall(_BLOCK.sub("", page.read_text()))
        if "tests" not in span and not _METRIC.match(span)
        for word in _WORD.findall(span)
        if _looks_like_code(word) and word not in known
    ]
    assert missing == []


def test_the_page_on_logs_lists_all_events() -> None:
    page = ROOT / "docs" / "how-to" / "logs.md"
    listed = {row[0].strip("`") for row in _rows(page.read_text()) if row[0].startswith("`")}
    assert EVENT_NAMES - listed == {"lifecycle_event", "process_event", "line_written"}


def test_modules_exist() -> None:
    """A span such as `policy/restart` is the end of a path of a module, a package or a file."""
    modules = {f"/{path.relative_to(PACKAGE).with_suffix('')}" for path in PACKAGE.rglob("*")}
    missing = [
        f"{page.relative_to(ROOT)}: `{span}`"
        for page in (ROOT / name for name in PAGES_WITH_MODULES)
        for span in re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)+)(?:\.py|/)?`", page.read_text())
        if not any((ROOT / span).with_suffix(s).exists() for s in ("", ".py"))
        and not any(module.endswith(f"/{span}") for module in modules)
    ]
    assert missing == []


def test_commands_exist() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: `meshtrio {command}`"
        for page in PAGES
        for command in re.findall(r"`meshtrio ([a-z-]+)", page.read_text())
        if command not in commands.list_commands(click.Context(commands))
    ]
    assert missing == []


def test_programs_of_the_tests_exist() -> None:
    """Pages name programs as `python -m tests.a.b`."""
    missing = [
        f"{page.relative_to(ROOT)}: python -m {module}"
        for page in PAGES
        for module in re.findall(r"python -m (tests(?:\.\w+)+)", page.read_text())
        if not any(
            (ROOT / f"{module.replace('.', '/')}{suffix}").is_file()
            for suffix in (".py", "/__main__.py")
        )
    ]
    assert missing == []


def test_terms_of_the_glossary_are_used() -> None:
    glossary = ROOT / "docs" / "glossary.md"
    sources = [*PACKAGE.rglob("*.py"), *(page for page in PAGES if page != glossary)]
    text = "\n".join(source.read_text() for source in sources)
    text = re.sub("([a-z])([A-Z])", r"\1 \2", text).lower()
    text = re.sub(r"[\s_-]+", " ", text)
    terms = [row[0].lower().replace("-", " ") for row in _rows(glossary.read_text())][1:]
    assert [term for term in terms if term not in text] == []


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    missing = []
    for page in PAGES:
        for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", _BLOCK.sub("", page.read_text())):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                missing.append(f"{page.relative_to(ROOT)}: {link}")
    assert missing == []
