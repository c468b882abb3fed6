"""Plugin processes at the level of the operating system: starting, reading, stopping, cleaning up.

The supervisor decides when an instance starts and stops; this package carries it out. It has four
parts, each with its own theory of operation:

- `spawn`: from a plugin's config to a running process group, and its end. `PluginProcess` is the
  entry point.
- `output`: bytes from a pipe to lines, rate limits and the last lines that are kept.
- `cleanup`: nothing outlives a mesh, however the mesh ends. `MeshRun` is the entry point.
- `proc`: what the kernel reports about processes and sockets; it only reads.

Imports point from `cleanup` to `spawn` to `output` and `proc`. Nothing here imports the parts of
the supervisor that use it, except for the value types of `supervisor.policy.diagnosis`.

The life of one process, with the module that does each step:

1. `supervisor.runs.launch` checks the executable's hash and builds the command;
   `supervisor.runs.environment` builds the environment.
2. `cleanup.mesh_run` adds what marks the process as one of this mesh.
3. `spawn.program` starts it in a thread, in a session and process group of its own.
4. `cleanup.warden` gets its pidfd, so that it is killed if the mesh is.
5. `output.pipe_reader` reads its stdout and stderr until both are closed.
6. `spawn.plugin_process` waits for its exit, or stops its group: SIGTERM, a grace period, SIGKILL.
7. `cleanup.leftover_killer` finds and kills what it started outside of its process group.
8. `cleanup.zombie_reaper` reaps it later if a tracer held it when it exited.

Two rules hold everywhere:

- A signal is never sent to a process because of its number alone. Either the process is our child
  and has not been reaped, so that the number cannot be reused, or its pidfd was opened first and
  its identity checked afterwards (`meshtrio.util.processes`).
- Whatever may wait for a filesystem or for another process (execve, /proc/PID/environ, wait for a
  traced child) happens in a thread that can be abandoned, or without blocking.
"""
