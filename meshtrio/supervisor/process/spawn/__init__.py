"""From a plugin's config to a running process group, and to its end.

Ownership: a `PluginProcess` owns the pidfd of its leader until the leader is reaped, and the two
pipes until they are handed to `output.pipe_reader`. `CHILD_REGISTRY` knows the pids of all
children that meshes of this process have started and not reaped.

Order of calls:

1. `supervisor.runs.launch` checks the executable and builds the command; the environment comes
   from `supervisor.runs.environment`. The command is the plugin's own, or `launcher_main` with
   settings and the plugin's command as arguments, if limits, a user, a cgroup or signals have to be
   set between fork and exec.
2. `PluginProcess.spawn` calls `program.start_program`, which forks and executes in a thread.
   `ChildRegistry.begin_start` and `finish_start` bracket it: while a start is pending, an unknown
   child may be the one that is being started, and no task takes it for an orphan.
3. `PluginProcess.wait`, or `stop`: SIGTERM to the group, the grace period, a stack dump of what is
   stuck, SIGKILL to the group.
4. `ChildProcess.reap`. A process that a tracer holds counts as exited and is reaped later, by
   `ChildRegistry.reap_later`.

Invariants:

- The leader is reaped only after its group has been killed. As long as it is a zombie its pid,
  which is also the id of the group, is not reused: a signal to the group never reaches strangers.
- wait(2) is only called with WNOHANG.
- A process that was started is returned, or killed and reaped, whatever is cancelled or fails.
- A child holds copies of the mesh's descriptors only between fork and exec, and waits for no
  filesystem in that time.
- Plugins start with default signal dispositions, an empty signal mask, and the descriptor limit
  that the mesh was started with.

If a start fails, `start_failures` explains why and what to do about it.
"""
