"""Sphinx's configuration of the documentation site; `docs/build.py` builds it."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from meshtrio.util.version import VERSION

_DOCS = Path(__file__).parent.resolve()

project = "meshtrio"
author = "the meshtrio maintainers"
project_copyright = "the meshtrio maintainers"
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "docstrings",
]
exclude_patterns = ["_build"]
smartquotes = False  # quotation marks are also those of code
nitpicky = True
# Types of public signatures and attributes that users need not name. Those of other packages are
# rendered without a link (`docstrings`), since nothing is fetched.
nitpick_ignore = [
    ("py:class", f"meshtrio.{name}")
    for name in (
        "client.attempt.Attempt",
        "client.channel.T",
        "grpc.service_config.HedgingPolicy",
        "grpc.service_config.RetryBudgetConfig",
        "grpc.service_config.RetryPolicy",
        "grpc.service_config.RetryThrottling",
        "grpc.service_config.CircuitBreakerLimits",
        "grpc.service_config.LoadBalancingConfig",
        "rpc.method.Message",
        "services.log_level_controller.InstanceLevel",
        "supervisor.policy.diagnosis.Condition",
        "supervisor.policy.restart.ExitCause",
        "telemetry.binary_log.rotating_writer.RotatingWriter",
        "telemetry.metric_families.MetricFamily",
        "telemetry.traces.pipeline.TracePipeline",
        "telemetry.traces.tracing.TracerProviderLike",
        "transport.transport.Transport",
        "util.address.Address",
    )
]
nitpick_ignore_regex = [("py:obj", ".*")]  # code in docstrings: a link if it is a documented name

html_theme = "furo"
html_title = f"meshtrio {release.split('+')[0]}"  # without the commit of a development version
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

# The anchors of headings are GitHub's, so that links between pages work there as well.
myst_heading_anchors = 4

# sphinxcontrib-trio extends these classes.
autodoc_use_legacy_class_based = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

napoleon_numpy_docstring = False
napoleon_custom_sections = [("Cancellation", "returns_style"), ("Source", "returns_style")]

_LINK_OUT_OF_DOCS = re.compile(r"\]\(((?:\.\./)+[^)\s#]+\.md)(?:#[^)\s]*)?\)")


_NAMED_BLOCK = re.compile(r"^```(\w+) (?!from=)([\w./-]+\.\w+)$", re.MULTILINE)


def _name_files(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Show the names of the files that blocks of code are; see tests/docs/blocks.py."""
    source[0] = _NAMED_BLOCK.sub(r"```{code-block} \1\n:caption: \2\n", source[0])


def _link_files(_app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to Markdown files outside docs/ lead to those files, as there are no pages."""
    folder = (_DOCS / name).parent

    def replace(found: re.Match[str]) -> str:
        is_page = (folder / found[1]).resolve().is_relative_to(_DOCS)
        return found[0] if is_page else f"](path:{found[1]})"

    source[0] = _LINK_OUT_OF_DOCS.sub(replace, source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", _link_files)
    app.connect("source-read", _name_files)
