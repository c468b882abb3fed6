"""What plugins and their modules do that a fork could break: as after exec, or started by exec."""

from __future__ import annotations

import os
import py_compile
import resource
import zipfile
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from meshtrio.util.backoff import Backoff
from tests import ROOT
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.process_tracking import template_pids

pytestmark = pytest.mark.parametrize(
    "start", [StartMethod.EXEC, StartMethod.FORK], ids=lambda method: method.value
)
WAIT = "\nif __name__ == '__main__':\n    import time; time.sleep(3600)\n"


def make(folder: Path, start: StartMethod, program: str, **settings: Any) -> PluginConfig:
    (folder / "program.py").write_text(program + WAIT)
    preload = settings.pop("preload", ()) if start is StartMethod.FORK else ()
    settings.pop("preload", None)
    command = settings.pop("command", ["{python}", "program.py"])
    values = {"cwd": folder, "ready_timeout": 60.0, "backoff": Backoff(initial=0.01), **settings}
    return PluginConfig("p", command, start=start, preload=preload, **values)


def lines_of(watched: RecordedMesh) -> list[str]:
    return [each.event.line for each in watched.find_events(events.LineWritten)]  # type: ignore[attr-defined]


async def first_line(config: PluginConfig, folder: Path) -> str:
    async with run_mesh(MeshConfig([config]), folder) as watched:
        await watched.wait_for_event(events.LineWritten)
        return lines_of(watched)[0]


async def kill_and_wait(watched: RecordedMesh) -> None:
    count = len(watched.find_events(events.LineWritten))
    pid = watched.mesh.instances()[0].pid
    assert pid is not None
    os.kill(pid, 9)
    await watched.wait_for_event(events.LineWritten, count=count + 1)


async def test_compiled_script(start: StartMethod, short_dir: Path) -> None:
    (short_dir / "s.py").write_text("print('ran', flush=True)" + WAIT)
    py_compile.compile(str(short_dir / "s.py"), cfile=str(short_dir / "s.pyc"))
    config = make(short_dir, start, "", command=["{python}", "s.pyc"])
    assert await first_line(config, short_dir) == "ran"


async def test_multiprocessing_spawn_with_results_of_main(
    start: StartMethod, short_dir: Path
) -> None:
    program = """
import multiprocessing as mp
class K: pass
def f(_): return K()
if __name__ == '__main__':
    with mp.get_context('spawn').Pool(1) as pool:
        print(type(pool.apply_async(f, (1,)).get(20)).__name__, flush=True)
"""
    config = make(short_dir, start, program, preload=["multiprocessing"])
    assert await first_line(config, short_dir) == "K"


@pytest.mark.parametrize(
    ("module", "expression"),
    [
        ("import multiprocessing; L = multiprocessing.Lock()", "mod.L.acquire(timeout=1)"),
        ("import mmap; M = mmap.mmap(-1, 8)", "mod.M[0] == 0 and not mod.M.write(b'x') == 0"),
    ],
    ids=["lock", "mmap"],
)
async def test_instances_share_no_memory(
    start: StartMethod, short_dir: Path, module: str, expression: str
) -> None:
    (short_dir / "mod.py").write_text(module)
    program = f"import mod; print({expression}, flush=True)"
    config = make(short_dir, start, program, preload=["mod"], instances=2)
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten, count=2)
        assert lines_of(watched) == ["True", "True"]


async def test_a_module_that_changes_during_the_imports(
    start: StartMethod, short_dir: Path
) -> None:
    began = short_dir / "began"
    (short_dir / "a.py").write_text("V = 1")
    (short_dir / "slow.py").write_text(f"import time; open({str(began)!r}, 'w'); time.sleep(2)")
    config = make(short_dir, start, "import a; print(a.V, flush=True)", preload=["a", "slow"])
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        while start is StartMethod.FORK and not began.exists():  # noqa: ASYNC110
            await trio.sleep(0.01)
        (short_dir / "a.py").write_text("V = 'new'")
        await watched.wait_for_event(events.LineWritten)
        await kill_and_wait(watched)
        assert lines_of(watched)[-1] == "new"


async def test_a_module_in_a_zip_file_changes(start: StartMethod, short_dir: Path) -> None:
    def write(value: str) -> None:
        with zipfile.ZipFile(short_dir / "new.zip", "w") as file:
            file.writestr("inzip.py", f"V = {value!r}")
        os.replace(short_dir / "new.zip", short_dir / "lib.zip")

    write("old")
    env = {"PYTHONPATH": f"{short_dir}/lib.zip:{ROOT}"}
    config = make(
        *(short_dir, start, "import inzip; print(inzip.V, flush=True)"), env=env, preload=["inzip"]
    )
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten)
        write("newer")
        await kill_and_wait(watched)
        assert lines_of(watched)[-1] == "newer"


async def test_the_order_of_the_search_path(start: StartMethod, short_dir: Path) -> None:
    (short_dir / "gen").mkdir()
    (short_dir / "gen" / "other.py").write_text("W = 'gen'")
    (short_dir / "other.py").write_text("W = 'top'")
    module = "import os, sys; sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'gen'))"
    (short_dir / "mod.py").write_text(module)
    config = make(
        short_dir, start, "import mod, other; print(other.W, flush=True)", preload=["mod"]
    )
    assert await first_line(config, short_dir) == "gen"


async def test_a_module_that_changes_the_directory(start: StartMethod, short_dir: Path) -> None:
    (short_dir / "sub").mkdir()
    (short_dir / "mod.py").write_text("import os; os.chdir('sub')")
    program = "import mod, os; print(os.path.basename(os.getcwd()), flush=True)"
    assert await first_line(make(short_dir, start, program, preload=["mod"]), short_dir) == "sub"


async def test_modules_beside_the_script_come_first(start: StartMethod, short_dir: Path) -> None:
    (short_dir / "attr.py").write_text("W = 'own'")
    program = "import attr; print(getattr(attr, 'W', 'another'), flush=True)"
    assert await first_line(make(short_dir, start, program), short_dir) == "own"


async def wait_for_templates(count: int) -> None:
    with trio.fail_after(60):
        while len(template_pids(os.getpid())) != count:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_replaced_template_is_ended(start: StartMethod, short_dir: Path) -> None:
    config = make(short_dir, start, "print('up', flush=True)")
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten)
        for _ in range(2):
            for pid in template_pids(os.getpid()):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (7, 7))
            await kill_and_wait(watched)
        await wait_for_templates(1 if start is StartMethod.FORK else 0)
        await watched.mesh.reload(attrs.evolve(watched.mesh.config, plugins=[]))
        await wait_for_templates(0)


async def test_a_template_that_ends_at_each_fork_is_not_tried_at_each_start(
    start: StartMethod, short_dir: Path
) -> None:
    imports = short_dir / "imports"
    module = f"import os; open({str(imports)!r}, 'a').write('x')\n"
    module += "os.register_at_fork(before=lambda: os._exit(1))"
    (short_dir / "mod.py").write_text(module)
    config = make(short_dir, start, "print('up', flush=True)", preload=["mod"])
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_event(events.LineWritten)
        for _ in range(5):
            await kill_and_wait(watched)
    # Two for the first start, and perhaps some in the background, with growing pauses.
    assert start is StartMethod.EXEC or 2 <= len(imports.read_text()) < 6
