"""The template process: imports modules, then forks plugins on request. Standard library only.

`template` runs it as a script: `template_main.py SETTINGS`. SETTINGS is JSON: the number of the
`control` socket, the `mesh_pid`, the `modules` to import, and the directory to import them from in
addition, `search_path`, or null.

It sends one message on the control socket: `ready`, or why it cannot serve. Then it receives one
message for each start, which has the descriptors of `_REQUEST`. The reply is sent
on the gate: `pid N`; `stale`, if the files of imported modules have changed; or `error TEXT`.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING or __package__:
    from meshtrio.supervisor.process.template import forked_child, preloading, program_runner
    from meshtrio.supervisor.process.template.code_version import CodeVersion, HiddenModules
    from meshtrio.supervisor.process.template.compiled_scripts import COMPILED_SCRIPTS
    from meshtrio.supervisor.process.template.parent_clone import ParentClone
else:
    # The interpreter may be one without meshtrio, or with another version of it. None of these
    # modules stays importable: a program may have modules of the same names.
    if not sys.flags.safe_path:
        del sys.path[0]
    _path, _modules = sys.path[:], set(sys.modules)
    _directory = os.path.dirname(os.path.abspath(__file__))
    _parents = [os.path.join(_directory, os.pardir, name) for name in ("cleanup", "spawn")]
    sys.path[:0] = [_directory, *_parents, os.path.join(_directory, *[os.pardir] * 3, "util")]
    import forked_child
    import preloading
    import program_runner
    from code_version import CodeVersion, HiddenModules
    from compiled_scripts import COMPILED_SCRIPTS
    from parent_clone import ParentClone

    sys.path[:] = _path
    for _name in ("code_version", "compiled_scripts", "forked_child", "launcher_main"):
        del sys.modules[_name]
    for _name in ("parent_clone", "preloading", "process_map", "process_marker", "processes"):
        del sys.modules[_name]
    del sys.modules["program_runner"]

_BEGAN_AT = time.time_ns()
"""When this process had imported none of the modules that its children share."""
_REQUEST = ("gate", "content", "stdin", "stdout", "stderr")
"""The descriptors of a request: the socket of this start, a memfd, and the program's streams. A
listening socket that the program inherits may follow."""
_STANDARD_STREAMS = range(3)
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_MAX_MESSAGE_LENGTH = 4096


class TemplateProcess:
    """This process."""

    def __init__(self, control: int, mesh_pid: int) -> None:
        self._control = socket.socket(fileno=control)
        self._control.set_inheritable(False)
        self._mesh_pidfd = int(os.environ["MESH_PIDFD"])
        self._allowed = {*_STANDARD_STREAMS, control, self._mesh_pidfd}
        self._mesh_pid = mesh_pid
        self._hidden_modules = HiddenModules()
        self._directories: dict[tuple[str, str], str] = {}
        """The directories of programs, by option and program."""
        self.runner = program_runner.ProgramRunner()

    def preload(self, modules: list[str], search_path: str | None) -> None:
        """Import the modules and report the result; exits if this process cannot serve."""
        gc.disable()
        if search_path is not None and not sys.flags.safe_path:
            sys.path.insert(0, search_path)
        self._set_killed_at_hangup(is_enabled=True)
        try:
            self._cwd = os.getcwd()
            if os.getppid() != self._mesh_pid:
                raise preloading.NotForkableError("the interpreter runs as a child of a wrapper")
            self._clone = ParentClone()
            preloading.import_modules(modules, self._allowed)
        except (OSError, preloading.NotForkableError) as exc:
            self._set_killed_at_hangup(is_enabled=False)
            self._control.send(str(exc).encode(errors="replace")[:_MAX_MESSAGE_LENGTH])
            os._exit(1)
        # Otherwise programs have different ones.
        self._has_search_path = search_path is not None
        self.runner.note_template(None if sys.flags.safe_path else search_path)
        self._has_changed_cwd = not _is_cwd(self._cwd)
        self._code = CodeVersion(_BEGAN_AT)
        # Each child lists the directories that it imports from: files may be added until then.
        importlib.invalidate_caches()
        _flush()
        # Collections in a child must not write to the pages of this heap, which copies them. There
        # was none here either: a child would fill the holes that it leaves.
        gc.freeze()
        self._set_killed_at_hangup(is_enabled=False)
        # A service manager may send these to all processes. The mesh ends this one.
        self._signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        self._control.send(b"ready")

    def _set_killed_at_hangup(self, *, is_enabled: bool) -> None:
        """Have the kernel kill this process when the mesh has ended, even if an import hangs."""
        if is_enabled:
            fcntl.fcntl(self._control, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(self._control, fcntl.F_SETSIG, signal.SIGKILL)
        # The mesh sends nothing until this process is ready, so that the signal has no other cause.
        flags = fcntl.fcntl(self._control, fcntl.F_GETFL) & ~os.O_ASYNC
        fcntl.fcntl(self._control, fcntl.F_SETFL, flags | (os.O_ASYNC if is_enabled else 0))

    def serve(self) -> dict[str, Any]:
        """Serve requests for ever; return the content of one in the child that it has forked."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._mesh_pidfd, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._mesh_pidfd in ready:
                os._exit(0)
            message, descriptors, _, _ = socket.recv_fds(self._control, 64, len(_REQUEST) + 1)
            if not message:
                os._exit(0)
            if len(descriptors) < len(_REQUEST):
                print("no descriptors are left", file=sys.stderr, flush=True)
                os._exit(1)  # There may be no gate to report it.
            content = self._fork(*descriptors)
            if content is not None:
                return content
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, gate: int, content: int, *streams: int) -> dict[str, Any] | None:
        """Fork, and report that on the gate; return the request's content in the child."""
        try:
            reply = self._find_refusal({*self._allowed, gate, content, *streams})
            if not reply:
                request = _read_request(content)
                is_complete = len(streams) == len(_STANDARD_STREAMS) + request["has_listener"]
                reply = self._prepare(request) if is_complete else "error no descriptors are left"
            if not reply:
                pid = self._clone.fork()
                reply = f"pid {pid}"
                if pid == 0:
                    self._start_child(gate, request, list(streams))
                    return request
        except OSError as exc:
            reply = f"error the template cannot fork: {exc.strerror}"
        _report(gate, reply)
        return None

    def _find_refusal(self, descriptors: set[int]) -> str:
        """Return the reply if nothing can be forked any more; "" if it can."""
        problem = preloading.find_obstacle(descriptors)
        if problem is not None:
            return f"error the template {problem} after its imports"
        return "" if self._code.is_current() else "stale"

    def _prepare(self, request: dict[str, Any]) -> str:
        """Prepare what children have in common; return the reply if this one is refused."""
        option, program = key = request["option"], request["program"]
        is_new = not option and COMPILED_SCRIPTS.prepare(os.path.join(self._cwd, program))
        if is_new or key not in self._directories:
            find = program_runner.find_program_directory
            self._directories[key] = find(option, program, self._cwd)
        request["directory"] = directory = self._directories[key]
        if self._has_search_path or sys.flags.safe_path:
            return ""
        hidden = self._hidden_modules.find(directory or self._cwd)
        if hidden is None:
            return ""
        return f"error it would import {hidden} from {directory}, instead of the template's"

    def _start_child(self, gate: int, request: dict[str, Any], streams: list[int]) -> None:
        """In the child: wait for the mesh, and become the plugin; exits if that fails."""
        self._control.close()  # The mesh learns of the template's end by this socket.
        self._await_pass(gate)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._signal_mask)
        try:
            number = request["pidfd_number"]
            if request["has_listener"]:
                request["env"]["LISTEN_PID"] = str(os.getpid())
            gate = forked_child.place_descriptors(streams, self._mesh_pidfd, number, gate)
            cwd = self._cwd if self._has_changed_cwd else None
            request["cwd"] = forked_child.become_plugin(request, cwd)
            if request["cwd"] != self._cwd:  # It was replaced.
                request["directory"] = None
        except (OSError, ValueError) as exc:
            _report(gate, f"error {exc}")
            os._exit(1)
        _report(gate, "started")
        os.close(gate)

    def _await_pass(self, gate: int) -> None:
        """Wait until the mesh lets this child pass; exit if it does not, or has exited."""
        poll = select.poll()
        poll.register(gate, select.POLLIN)
        poll.register(self._mesh_pidfd, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._mesh_pidfd in ready or not os.read(gate, 64):
            os._exit(0)


def _read_request(content: int) -> dict[str, Any]:
    """Read a request. Raises OSError."""
    data = os.pread(content, os.fstat(content).st_size, 0)
    request: dict[str, Any] = json.loads(data)
    return request


def _is_cwd(path: str) -> bool:
    try:
        return os.getcwd() == path
    except OSError:  # It was removed.
        return True


def _report(gate: int, text: str) -> None:
    """Send a message on the socket of a start, which may have been given up."""
    with contextlib.suppress(OSError):
        os.write(gate, text.encode(errors="replace")[:_MAX_MESSAGE_LENGTH])


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def main() -> None:
    settings = json.loads(sys.argv[1])
    template = TemplateProcess(settings["control"], settings["mesh_pid"])
    template.preload(settings["modules"], settings["search_path"])
    request = template.serve()
    names = ("option", "program", "arguments", "script_sha256", "cwd", "directory")
    template.runner.run(*map(request.__getitem__, names))


if __name__ == "__main__":
    main()
