"""`meshtrio log-level` shows the levels of plugins, and changes them while they run."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import ECHO_METHOD, document, done, failed, group
from tests.programs import PLUGINS, plugin, served

MINIMAL = plugin("minimal", "-I", "-S", str(PLUGINS / "minimal.py"))
TALKATIVE = plugin("talkative", "talkative.py", instances=2)


def test_levels_are_shown_and_changed(short_dir: Path) -> None:
    config = TALKATIVE + MINIMAL + group("both", "talkative", "minimal")
    with served(short_dir, config, ready=3) as mesh:
        titles, *rows = done(mesh, "log-level", "both").splitlines()
        assert " ".join(titles.split()) == "PLUGIN INSTANCE LOGGED FROM WRITTEN FROM NOTE"
        assert [row.split(maxsplit=4) for row in rows] == [
            ["talkative", "0", "-", "info"],
            ["talkative", "1", "-", "info"],
            ["minimal", "0", "-", "-", "it does not serve meshtrio.v1.Logging"],
        ]
        done(mesh, "call", "plugin.talkative", ECHO_METHOD, '{"message": "debug not shown"}')
        said = done(mesh, "log-level", "talkative", "debug")
        assert said == "talkative logs from debug on: 2 instances told\n"
        mesh.wait_for("talkative/1: is to log from debug on")
        done(mesh, "call", "plugin.talkative", ECHO_METHOD, '{"message": "debug it is shown"}')
        mesh.wait_for("it is shown [debug]")
        assert "not shown" not in mesh.log
        assert done(mesh, "log-level", "minimal", "error") == (
            "minimal logs from error on: 0 instances told\n"
            "minimal/0 was not told: it does not serve meshtrio.v1.Logging\n"
        )
        (talkative,) = document(mesh, "log-level", "plugin.talkative")["plugins"]
        assert (talkative["plugin"], talkative["level"]) == ("talkative", "debug")
        first, second = talkative["instances"]
        assert (first["instance"], first["level"], first["note"]) == (0, "debug", "")
        assert first["pid"] != second["pid"]
        (minimal,) = document(mesh, "log-level", "minimal", "info")["plugins"]
        assert (minimal["level"], minimal["instances"][0]["level"]) == ("info", "")
        assert done(mesh, "reload") == "adjusted talkative, minimal\n"

        assert "there is no plugin 'nope'; the plugins are" in failed(mesh, "log-level", "nope")
        assert "no plugin 'nope'" in failed(mesh, "log-level", "nope", "debug")
        wrong = mesh.run("log-level", "talkative", "loud")
        assert wrong.returncode == 2
        assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in wrong.stderr
