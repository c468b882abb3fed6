"""The history in the state that the new program reads, and a state that has none."""

from __future__ import annotations

import json
import os
from pathlib import Path

from meshtrio.services.saved_history import SavedHistory
from meshtrio.supervisor import events
from meshtrio.supervisor.operations import Execution
from meshtrio.upgrade.state import read_state, write_state
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import MINIMAL_COMMAND, plugin_table


async def test_a_state_of_a_version_without_a_history(short_dir: Path) -> None:
    async with run_mesh(plugin_table("a", *MINIMAL_COMMAND), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        written = write_state(watched.mesh._handover.save(Execution()))
    try:
        saved = read_state(written)
        assert (saved.history.last_id, bool(saved.history.lives)) == (1, True)
        data = json.loads(os.pread(written, 1 << 20, 0))
        del data["history"]
        os.ftruncate(written, 0)
        os.pwrite(written, json.dumps(data).encode(), 0)
        assert read_state(written).history == SavedHistory()
        # One of a later version may have more.
        data["history"] = {"since": 1.0, "other": {}}
        os.pwrite(written, json.dumps(data).encode(), 0)
        assert read_state(written).history == SavedHistory(since=1.0)
    finally:
        os.close(written)
