"""Config: what TOML becomes, and what the classes themselves refuse."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshtrio.config import (
    ConfigSource,
    EscalationScope,
    GatewaySecurity,
    GroupConfig,
    MeshConfig,
    PluginConfig,
    RestartPolicy,
    StartMethod,
    Strategy,
    load,
)
from meshtrio.util.backoff import Backoff
from meshtrio.util.errors import ConfigError

FULL = """
[mesh]
runtime_dir = "run"

[[plugin]]
name = "full"
command = ["./program", "--flag", "{python}"]
instances = 3
env = { KEY = "value" }
cwd = "sub"
restart = "on-failure"
backoff = { initial = 1, maximum = 2.5, multiplier = 3, jitter = 0 }
ready_timeout = 7
stop_timeout = 0

[[plugin]]
name = "least"
command = ["true"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mesh.toml"
    path.write_text(text)
    return path


@pytest.fixture
def full(tmp_path: Path) -> MeshConfig:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "program").write_text("#!/bin/sh\n")
    (tmp_path / "sub" / "program").chmod(0o755)
    return load(write(tmp_path, FULL))


def test_every_key_is_taken_over(full: MeshConfig, tmp_path: Path) -> None:
    assert full.runtime_dir == tmp_path / "run"
    assert full.plugins[0] == PluginConfig(
        name="full",
        command=["./program", "--flag", "{python}"],
        instances=3,
        env={"KEY": "value"},
        cwd=tmp_path / "sub",
        restart=RestartPolicy.ON_FAILURE,
        backoff=Backoff(initial=1, maximum=2.5, multiplier=3, jitter=0),
        ready_timeout=7,
        stop_timeout=0,
    )


def test_defaults_are_those_of_the_classes(full: MeshConfig, tmp_path: Path) -> None:
    assert full.plugins[1] == PluginConfig(name="least", command=["true"], cwd=tmp_path)


def test_the_command_is_resolved(full: MeshConfig, tmp_path: Path) -> None:
    program = str(tmp_path / "sub" / "program")
    assert full.plugins[0].argv() == [program, "--flag", sys.executable]
    assert full.plugins[0].service_name == "plugin.full"


def test_an_empty_file_is_an_empty_mesh(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == MeshConfig()


@pytest.mark.parametrize(
    "text",
    ["plugin = 3", "plugin = [3]", "[plugin]", "mesh = 3", "[[mesh]]", "[mesh]\nruntime_dir = 3"],
)
def test_a_table_of_the_wrong_shape_is_one_problem(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert len(caught.value.problems) == 1


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 65},
        {"command": []},
        {"command": [""]},
        {"instances": 0},
        {"ready_timeout": 0},
        {"ready_timeout": float("nan")},
        {"stop_timeout": -1},
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"PLUGIN_SOCKET": "x"}},
        {"max_receive_message_length": -2},
        {"max_send_message_length": -2},
        {"max_busy_poll": -0.001},
        {"max_busy_poll": 0.02},
        {"max_busy_poll": float("nan")},
        {"max_connection_age": 0},
        {"max_connection_age": float("nan")},
        {"max_connection_age_grace": -1},
    ],
    ids=str,
)
def test_the_classes_refuse_the_same(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        PluginConfig(**{"name": "x", "command": ["true"], **wrong})


@pytest.mark.parametrize("field", ["name", "stop_timeout", "instances", "ready_timeout"])
def test_none_is_refused_where_it_is_not_the_default(field: str) -> None:
    values: dict[str, Any] = {"name": "x", "command": ["true"], field: None}
    with pytest.raises((TypeError, ValueError)):
        PluginConfig(**values)


def test_none_is_accepted_where_it_is_the_default() -> None:
    plugin = PluginConfig("x", ["true"], listen=None, max_age=None)
    assert plugin == PluginConfig("x", ["true"])


def test_two_plugins_of_one_name_cannot_be_together() -> None:
    one = PluginConfig(name="x", command=["true"])
    with pytest.raises(ConfigError, match="two plugins are named 'x'"):
        MeshConfig(plugins=[one, one])


WRONG_TOGETHER = {
    "a circle": (
        "depends_on = ['b']|depends_on = ['c']|depends_on = ['a']",
        "",
        "plugin 'a': depends_on: dependency cycle: a → b → c → a",
    ),
    "itself": ("depends_on = ['a']||", "", "dependency cycle: a → a"),
    "unknown after": (
        "depends_on = ['d']||",
        "",
        "'a': depends_on: 'd' is neither a plugin nor a group",
    ),
    "a circle through groups": (
        "depends_on = ['g']||",
        "[[group]]\nname = 'g'\nmembers = ['b']\ndepends_on = ['a']",
        "dependency cycle",
    ),
    "unknown member": (
        "||",
        "[[group]]\nname = 'g'\nmembers = ['d']",
        "group 'g': members: 'd' is neither a plugin nor a group",
    ),
    "no members": ("||", "[[group]]\nname = 'g'\nmembers = []", "must name at least one"),
    "in two groups": (
        "||",
        "[[group]]\nname = 'g'\nmembers = ['a']\n[[group]]\nname = 'h'\nmembers = ['a']",
        "group 'h': members: 'a' is in group 'g' already",
    ),
    "a group in itself": (
        "||",
        "[[group]]\nname = 'g'\nmembers = ['h']\n[[group]]\nname = 'h'\nmembers = ['g']",
        "cycle of groups: g → h → g",
    ),
    "one name for both": ("||", "[[group]]\nname = 'a'\nmembers = ['b']", "a plugin has this name"),
    "two groups of a name": (
        "||",
        "[[group]]\nname = 'g'\nmembers = ['a']\n[[group]]\nname = 'g'\nmembers = ['b']",
        "two groups are named 'g'",
    ),
    "escalating to oneself": (
        "||",
        "[[group]]\nname = 'g'\nmembers = ['a']\nescalate = 'plugin'",
        'escalate: must be "group"',
    ),
}


@pytest.mark.parametrize(("tails", "groups", "reason"), WRONG_TOGETHER.values(), ids=WRONG_TOGETHER)
def test_what_cannot_be_together(tails: str, groups: str, reason: str, tmp_path: Path) -> None:
    plugins = [
        f"[[plugin]]\nname = '{name}'\ncommand = ['true']\n{tail}\n"
        for name, tail in zip("abc", tails.split("|"), strict=True)
    ]
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        load(write(tmp_path, "".join(plugins) + groups))
    assert len(caught.value.problems) == 1


def test_groups_are_read(tmp_path: Path) -> None:
    text = (
        FULL.replace('cwd = "sub"', "").replace('"./program"', '"true"')
        + """
[[group]]
name = "all"
members = ["least", "full"]
strategy = "rest-for-one"
max_restarts = 1
restart_period = 5
escalate = "mesh"
"""
    )
    assert load(write(tmp_path, text)).groups == (
        GroupConfig("all", ["least", "full"], Strategy.REST_FOR_ONE, 1, 5.0, EscalationScope.MESH),
    )


SERVICE = """
[[service]]
name = "plugin.echo"
endpoints = ["tcp://10.0.0.1:7000", "unix:/run/x"]
weight = 2
local = true
tls = { ca = "ca.pem", server_name = "x" }
config = { methodConfig = [{ name = [{}], timeout = "1s" }] }
"""


def test_a_service_table(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "mesh.toml").write_text(SERVICE)
    (table,) = load(tmp_path / "mesh.toml").services
    assert table.endpoints == ("tcp://10.0.0.1:7000", "unix:/run/x")
    assert (table.weight, table.local) == (2, True)
    assert table.tls is not None
    assert (table.tls.ca, table.tls.server_name) == (tmp_path / "ca.pem", "x")
    assert table.config_json == '{"methodConfig": [{"name": [{}], "timeout": "1s"}]}'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"tcp://10.0.0.1:7000"', '"10.0.0.1:7000"', "is neither unix:/path nor tcp:host:port"),
        ('"tcp://10.0.0.1:7000"', '"tcp://host:x"', "is neither unix:/path nor tcp:host:port"),
        ("weight = 2", "weight = 0", "weight: must be at least 1"),
        ("local = true", "local = 1", "local: must be true or false, not 1"),
        ("ca.pem", "gone.pem", "service 'plugin.echo': tls: ca: there is no file"),
        ("ca =", "authority =", "tls: authority: is not a key that meshtrio knows"),
        ('"1s"', "1", "methodConfig[0].timeout: must be a duration"),
        ('name = "plugin.echo"', "", "service number 1: name: is missing"),
        ("\nweight", '\n[[service]]\nname = "plugin.echo"\nweight', "has more than one config"),
    ],
)
def test_mistakes_in_a_service_table(old: str, new: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    text = SERVICE.replace(old, new)
    if "more than one" in reason:
        text = SERVICE + SERVICE
    (tmp_path / "mesh.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "mesh.toml")
    assert reason in str(caught.value)


def test_every_mistake_about_a_collector_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(
        '[mesh.telemetry]\ntraces = "collector"\ntraces_tls = { ca = "gone.pem" }\n'
        'traces_headers = { "a b" = "secret" }\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "mesh.toml")
    where = f"{tmp_path / 'mesh.toml'}: mesh: telemetry: "
    assert caught.value.problems == [
        f"{where}traces: expected tcp:host:port, unix:/path or http://host:port, not 'collector'",
        f"{where}traces_tls: ca: there is no file {tmp_path / 'gone.pem'}",
        f"{where}traces_headers: 'a b' cannot be the name of a header",
    ]


def test_where_instances_of_a_plugin_on_tcp_listen() -> None:
    plugin = PluginConfig("p", ["true"], instances=2, listen="tcp://127.0.0.1:7000")
    assert [plugin.instance_address(n, place) for place in (0, 1) for n in (0, 1)] == [
        f"tcp:127.0.0.1:{port}" for port in (7000, 7001, 7002, 7003)
    ]
    held = attrs.evolve(plugin, listen_fds=True)
    assert [held.instance_address(n, place) for place in (0, 1) for n in (0, 1)] == [
        f"tcp:127.0.0.1:{port}" for port in (7000, 7001, 7000, 7001)
    ]
    with pytest.raises(ValueError, match="neither unix"):
        PluginConfig("p", ["true"], listen="7000")
    with pytest.raises(ValueError, match="must be tcp://host:port"):
        PluginConfig("p", ["true"], listen="unix:/run/x")


def test_a_held_socket_needs_one_port_for_each_instance() -> None:
    plugin = PluginConfig("p", ["true"], instances=2, listen="tcp://127.0.0.1:7000")
    other = PluginConfig("q", ["true"], listen="tcp://127.0.0.1:7002", listen_fds=True)
    with pytest.raises(ConfigError, match="'q': listen: takes port 7002, and"):
        MeshConfig([plugin, other])
    MeshConfig([attrs.evolve(plugin, listen_fds=True), other])


def test_a_held_socket_is_not_for_a_server_that_another_program_starts() -> None:
    with pytest.raises(ConfigError) as caught:
        MeshConfig([PluginConfig("p", ["true"], listen_fds=True, verify_server=False)])
    (problem,) = caught.value.problems
    assert problem == (
        "plugin 'p': listen_fds: requires verify_server; only a process that the mesh starts can "
        "inherit its socket"
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"start": StartMethod.ON_DEMAND},
            'start: "on-demand" requires `listen_fds = true`, so that the mesh holds the socket',
        ),
        (
            {"start": StartMethod.EXEC, "idle_timeout": 3},
            'idle_timeout: is only for start = "on-demand", by which it is started again',
        ),
        (
            {"start": StartMethod.ON_DEMAND, "listen_fds": True, "preload": ["json"]},
            'preload: is only for start = "fork", by which a template imports it',
        ),
        (
            {"start": StartMethod.FORK_ON_DEMAND, "listen_fds": True},
            "command: 'true' is not a Python",
        ),
    ],
)
def test_starts_on_demand_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MeshConfig([PluginConfig("p", ["true"], **settings)])
    (found,) = caught.value.problems
    assert found.startswith(f"plugin 'p': {problem}")


def test_a_start_on_demand_is_no_change_of_the_process() -> None:
    plugin = PluginConfig("p", ["true"], listen_fds=True)
    on_demand = attrs.evolve(plugin, start=StartMethod.ON_DEMAND)
    assert plugin.process_spec() == on_demand.process_spec()
    assert plugin.process_spec() != attrs.evolve(on_demand, idle_timeout=3).process_spec()


ACCESS = """
[mesh.access.control]
users = ["root", "0"]
groups = ["root"]

[mesh.access.gateway]
subjects = ["CN=ops", "URI:spiffe://x/*", "*"]

[mesh.gateway]
listen = "tcp://127.0.0.1:7000"
tls = { certificate = "c.pem", key = "k.pem", client_ca = "ca.pem" }
"""


def test_access_and_gateway(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem", "ca.pem"):
        (tmp_path / name).touch()
    config = load(write(tmp_path, ACCESS))
    assert config.access.control.users == ("root", "0")
    assert config.access.registry.users == ()
    assert config.gateway.security is GatewaySecurity.MUTUAL_TLS
    assert config.gateway.tls is not None
    assert config.gateway.tls.client_ca == tmp_path / "ca.pem"


TLS = 'tls = { certificate = "mesh.toml", key = "mesh.toml", client_ca = "mesh.toml" }\n'
LISTEN = '[mesh.gateway]\nlisten = "tcp://127.0.0.1:7000"\n'
PLAINTEXT = 'security = "plaintext"\n'
EVERYBODY = '[mesh.access.gateway]\nsubjects = ["*"]\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LISTEN, "mutual TLS requires certificate, key and client_ca"),
        (LISTEN + TLS.replace("client_ca", "client_cb"), "client_cb: is not a key"),
        (LISTEN + TLS, r"no client could use the port; set subjects"),
        (LISTEN + TLS + 'security = "plaintext"\n', "is not used with"),
        (LISTEN + 'security = "none"\n', "must be one of mutual-tls, plaintext"),
        (LISTEN + PLAINTEXT + EVERYBODY, "only clients of a gateway with mutual"),
        ("[mesh.gateway]\n" + TLS, "set listen, too"),
        (
            "[mesh.gateway]\nmax_connection_age = 60\n",
            "max_connection_age: is for the TCP port only",
        ),
        (LISTEN + PLAINTEXT + "max_connection_age_grace = 5\n", "requires max_connection_age"),
        (
            LISTEN + PLAINTEXT + "max_connection_age = 0\n",
            "max_connection_age: must be more than 0",
        ),
        (LISTEN + "max_connection_age_grace = -1\n", "must be at least 0, not -1"),
        (EVERYBODY, "only clients of a gateway with mutual TLS have them"),
        ('[mesh.access.gateway]\nsubjects = ["ops"]\n', "'ops' is not '\\*' nor does it begin"),
        ('[mesh.gateway]\nlisten = "unix:/x"\n', "must be tcp://host:port"),
        ('[mesh.access.control]\nuser = ["x"]\n', "did you mean 'users'"),
    ],
)
def test_access_and_gateway_that_cannot_be(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(write(tmp_path, text))


def test_what_a_config_was_read_from_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, FULL.replace("./program", "true").replace('cwd = "sub"\n', ""))
    config = load(path, runtime_dir=tmp_path / "other")
    assert config.runtime_dir == tmp_path / "other"
    assert config.source == ConfigSource(path, tmp_path / "other")
    assert config == load(path, runtime_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"always_restart_on": [1], "never_restart_on": [1]}, "1 is also in always_restart_on"),
        ({"never_restart_on": [300]}, "300 is not an exit status"),
        ({"backoff": Backoff(initial=5, maximum=1)}, "backoff: initial is more than maximum"),
    ],
)
def test_what_of_a_plugin_does_not_go_together(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MeshConfig([PluginConfig("p", ["true"], **values)])


def test_a_file_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("x = " + "[" * 3000)
    with pytest.raises(ConfigError, match="is nested too deeply"):
        load(tmp_path / "mesh.toml")


@pytest.mark.parametrize(
    "text",
    [
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = "{secret}"\n',
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = ["A={secret}"]\n',
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = {{ A = ["{secret}"] }}\n',
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = {{ A = {{ B = "{secret}" }} }}\n',
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = {{ A = 7357 }}\n',
        '[[plugin]]\nname = "a"\ncommand = ["true"]\nenv = {{ "A={secret}" = "" }}\n',
        '[[plugin]]\nname = "a"\ncommand = ["true", ["{secret}"]]\n',
        '[[plugin]]\nname = "a"\ncommand = "true {secret}"\n',
        '[mesh.telemetry]\ntraces = "tcp:h:1"\ntraces_headers = "{secret}"\n',
        '[mesh.telemetry]\ntraces = "tcp:h:1"\ntraces_headers = {{ key = ["{secret}"] }}\n',
        '[mesh.telemetry]\ntraces = "tcp:h:1"\ntraces_headers = {{ "a: {secret}" = "" }}\n',
        '[mesh.telemetry]\ntraces = {{ headers = "{secret}" }}\n',
        '[[service]]\nname = "a"\nconfig = "{secret}"\n',
    ],
)
def test_what_may_be_a_secret_is_in_no_message(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text.format(secret="7357word")))
    assert len(caught.value.problems) == 1
    assert "7357" not in str(caught.value)


def test_a_plugin_is_shown_without_its_environment() -> None:
    plugin = PluginConfig("a", ["true"], env={"KEY": "7357word"})
    assert "7357word" not in repr(MeshConfig([plugin]))


def test_more_instances_than_anybody_means_are_refused(tmp_path: Path) -> None:
    slip = '[[plugin]]\nname = "p"\ncommand = ["true"]\ninstances = 3000000\n'
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, slip))
    first, second = caught.value.problems
    assert "plugin 'p': instances: 3000000 is more than its max_instances, 256; raise" in first
    assert "mesh: the plugins have 3000000 instances together, more than max_instances" in second

    raised = "[mesh]\nmax_instances = 3000000\n" + slip + "max_instances = 3000000\n"
    assert load(write(tmp_path, raised)).plugins[0].instances == 3_000_000


def test_plugins_have_no_more_instances_together_than_the_mesh_may_have() -> None:
    plugins = [PluginConfig(name=f"p{n}", command=["true"], instances=256) for n in range(5)]
    assert len(MeshConfig(plugins[:4]).plugins) == 4
    with pytest.raises(ConfigError, match="1280 instances together, more than max_instances, 1024"):
        MeshConfig(plugins)


@pytest.mark.parametrize("number", [10**20, -(10**20), 10**400])
@pytest.mark.parametrize(
    "key", ["output.kept", "output.burst", "stop_timeout", "instances", "always_restart_on"]
)
def test_numbers_that_nothing_can_hold_are_refused(key: str, number: int, tmp_path: Path) -> None:
    value = f"[{number}]" if key.endswith("_on") else str(number)
    text = f'[[plugin]]\nname = "p"\ncommand = ["true"]\n{key} = {value}\n'
    with pytest.raises(ConfigError, match="must be a number of at most 64 bits"):
        load(write(tmp_path, text))


def test_a_number_of_five_thousand_digits_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        load(write(tmp_path, f"a = {'9' * 5000}\n"))


def test_a_folder_of_a_user_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    text = '[[plugin]]\nname = "p"\ncommand = ["true"]\ncwd = "~nosuchuser/x"\n'
    with pytest.raises(ConfigError, match="there is no home directory for '~nosuchuser/x'"):
        load(write(tmp_path, text))
