"""A config as TOML: it can be read again, and its secrets are masked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import pytest

from meshtrio.config import MeshConfig, PluginConfig, StaticServiceConfig, load
from meshtrio.config.toml_writer import ADDRESS_FIELDS, PLAIN_FIELDS, write_config
from tests import ROOT

FREE_TEXTS = {"command", "config", "env", "traces_headers"}
"""Fields of which everything is looked at, or masked."""

EVERYTHING = """
[mesh]
runtime_dir = "run"
max_starting = 3
max_instances = 12
reap_orphans = true

[mesh.access.control]
users = ["root"]
subjects = ["CN=ops"]

[mesh.access.registry]
services = ["a*"]

[mesh.gateway]
listen = "tcp://127.0.0.1:7000"
tls = { certificate = "pem", key = "pem", client_ca = "pem" }
max_connection_age = 1e3
reset_rate = 0.5

[mesh.discovery]
etcd = ["https://a:1", "https://b"]
user = "u"
password_file = "pem"
tls = {}
node = "n"

[mesh.telemetry]
metrics = "127.0.0.1:9464"
traces = "tcp:collector:4317"
traces_tls = { ca = "pem" }
sampling = 0.25
binary_log = "*"

[mesh.dns]
servers = ["10.0.0.53"]

[mesh.limits]
max_calls_per_user = 5

[mesh.log]
format = "json"
level = "debug"

[[plugin]]
name = "one"
command = ["{python}", "-c", "print('\\u202e \\u007f \\\\ \\" \\n \U0001f4a5')", "--x"]
cwd = "."
inherit_env = []
depends_on = { two = "ready", job = "completed" }
instances = 2
start = "fork"
preload = ["json"]
restart = "on-failure"
always_restart_on = [3]
max_age = inf
containment = { umask = 0o027, nice = -3, rlimits = { nofile = 64 }, memory = 1 }
liveness = { interval = 0.5 }
output = { kept = 3, log_level = "warning" }
backoff = { initial = 0.5, jitter = 0 }
metrics = "off"

[[plugin]]
name = "two"
command = ["sleep", "1"]
ready = "http://127.0.0.1:80/health"
restart = "never"
replace = "start-first"
listen = "tcp://127.0.0.1:8000"

[[group]]
name = "both"
members = ["one", "two"]
strategy = "one-for-all"
escalate = "mesh"

[[service]]
name = "db"
endpoints = ["dns:///db.example:443", "unix:/run/db"]
local = false
tls = { server_name = "x" }

[service.config]
methodConfig = [{ name = [{ service = "a.B" }], timeout = "1.5s", waitForReady = true }]

[[service]]
name = "db"
endpoints = ["tcp://db:5432"]

[[task]]
name = "job"
command = ["true"]
retries = 2

[[task]]
name = "nightly"
command = ["true"]
schedule = "0 3 * * *"
timezone = "Europe/Berlin"
depends_on = ["one"]
"""


def read(folder: Path, text: str) -> MeshConfig:
    (folder / "pem").touch()
    path = folder / "mesh.toml"
    path.write_text(text)
    return load(path)


@pytest.mark.parametrize("with_defaults", [False, True])
@pytest.mark.parametrize(
    "text", [EVERYTHING, "", (ROOT / "examples/mesh.toml").read_text(), "[mesh.telemetry]\n"]
)
def test_what_is_written_can_be_read_again(
    tmp_path: Path, text: str, *, with_defaults: bool
) -> None:
    text = text.replace('cwd = "', f'cwd = "{ROOT}/examples/')
    config = read(tmp_path, text)
    written = write_config(config, with_defaults=with_defaults)
    assert read(tmp_path, written.toml) == config
    assert written.masked == 0


def test_values_that_are_the_defaults_are_left_out(tmp_path: Path) -> None:
    config = read(tmp_path, '[[plugin]]\nname = "a"\ncommand = ["true"]\nrestart = "always"\n')
    assert write_config(config).toml == (
        f'[[plugin]]\nname = "a"\ncommand = ["true"]\ncwd = "{tmp_path}"\n'
    )
    plugin = tomllib.loads(write_config(config, with_defaults=True).toml)["plugin"][0]
    assert (plugin["restart"], plugin["backoff"]["initial"]) == ("always", 0.1)


SECRETS = """
[mesh.telemetry]
traces = "https://collector/v1?key=hunter2"
traces_headers = { "X-Key" = "hunter2", other = "hunter2" }

[[plugin]]
name = "a"
command = ["true", "--password", "hunter2", "-H", "hunter2", "TOKEN=hunter2", "http://a:hunter2@b"]
env = { PLAIN = "hunter2", "we ird" = "hunter2", "quote\\"" = "hunter2" }

[[task]]
name = "t"
command = ["true", "--api-key=hunter2", "export SECRET=hunter2\\nhunter2"]
env = { X = "hunter2" }

[[service]]
name = "s"

[[service.config.loadBalancingConfig]]
some_policy = { token = "hunter2", url = "//u:hunter2@h" }

[[service.config.loadBalancingConfig]]
round_robin = {}
"""


@pytest.mark.parametrize("with_defaults", [False, True])
def test_no_secret_is_shown(tmp_path: Path, *, with_defaults: bool) -> None:
    config = read(tmp_path, SECRETS)
    written = write_config(config, with_defaults=with_defaults)
    assert "hunter2" not in written.toml
    assert written.masked == 15
    again = read(tmp_path, written.toml)
    assert dict(again.plugins[0].env) == {"PLAIN": "***", "we ird": "***", 'quote"': "***"}
    assert again.telemetry.traces == "https://collector/v1?key=***"


def test_texts_of_embedding_programs_are_escaped() -> None:
    hostile = '\x1b[31m\u202e\x7f\U000e0041"\\\n\t\udcff'
    plugin = PluginConfig(name="a", command=["true", hostile], cwd=Path(f"/{hostile}"))
    policies = [{"other": {hostile: None, "a": hostile}}, {"round_robin": {}}]
    service = StaticServiceConfig(name="s", config={"loadBalancingConfig": policies})
    text = write_config(MeshConfig([plugin], services=[service])).toml
    assert not any(character in text for character in "\x1b\u202e\x7f\U000e0041\udcff\t")
    found = tomllib.loads(text)
    shown = hostile.replace("\udcff", "\ufffd")
    assert found["plugin"][0]["command"] == ["true", shown]
    assert found["plugin"][0]["cwd"] == f"/{shown}"
    assert found["service"][0]["config"]["loadBalancingConfig"][0] == {"other": {"a": shown}}


def test_it_has_been_decided_for_each_field_what_is_secret() -> None:
    """A new field with texts has to be added to one of the sets, or is masked as a command is."""
    unknown = (
        {
            name
            for name, hint in iter_fields(MeshConfig)
            if str in (hint, *get_args(hint)) or hint == Mapping[str, Any]
        }
        - PLAIN_FIELDS
        - ADDRESS_FIELDS
        - FREE_TEXTS
    )
    assert not unknown


def iter_fields(kind: Any) -> list[tuple[str, Any]]:
    """Return the fields of a class and of those in it, with their types."""
    found = []
    for name, hint in get_type_hints(kind).items():
        types = [each for each in (hint, *get_args(hint)) if isinstance(each, type)]
        nested = [each for each in types if attrs.has(each)]
        found += [field for each in nested for field in iter_fields(each)]
        if not nested:
            found.append((name, hint))
    return found


def test_the_fields_of_headers_and_variables_are_not_in_reprs() -> None:
    """`repr=False` is what says that all values of a field are secret."""
    fields = {name for name, _ in iter_fields(MeshConfig)}
    assert fields >= {"env", "traces_headers", "command", "listen"}
    hidden = {field.name for field in attrs.fields(PluginConfig) if not field.repr}
    assert hidden == {"env"}
