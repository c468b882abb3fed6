"""Nothing outlives a mesh: how processes are recognized, and who kills which of them in each case.

Every process of a mesh inherits marks: MESH_ID and MESH_LAUNCH_ID in its environment, and a soft
limit of RLIMIT_RSS that encodes both (`process_marker`). `mesh_run` makes the marks of one run of
a mesh and records its random id in the lock file of the runtime dir. `process_tree` answers the
opposite question, whether a given process belongs to a plugin.

Who kills what:

| Case | Killed by | Recognized by |
| --- | --- | --- |
| A plugin exits or is stopped | `spawn.plugin_process` | its process group |
| A plugin has left processes in other groups | `leftover_killer` | marks, session, cgroup |
| A descendant has dropped all marks | `reparented` | it became a child of the mesh |
| The mesh stops | `mesh_run.MeshRun.kill_remaining`, after its plugins | marks |
| The mesh is killed | the warden (`warden_main`) | pidfds, descendants, cgroups, marks |
| Mesh and warden are killed, plugin in Python | `mesh_exit`, in the plugin itself | its marks |
| Mesh and warden are killed, other plugins | `mesh_run.kill_earlier_runs`, next mesh | marks |

Zombies are reaped by their parents: `spawn.child_process` reaps what the mesh has started, and
`zombie_reaper` what the kernel has made a child of the mesh, as PID 1 or as a subreaper.

Ownership: the mesh owns a `Warden`, which owns one warden process at a time and restarts it if it
dies. The warden process holds the pidfds of all plugins. `Cgroups` holds a lock on the delegated
directory, since what is in there is killed and removed.

Order of calls in a mesh: claim the runtime dir, `kill_earlier_runs`; start `run_zombie_reaper`,
`Warden.run` and `ReparentedProcesses.run`; start plugins. At the end: stop all plugins,
`MeshRun.kill_remaining`, and the three services in reverse order; release the runtime dir. The
users of plugins are recorded before a process of theirs is started (`Warden.set_users`). The limit
that marks a process is set just after its start; the warden makes a second pass for that reason.

Invariants:

- No process is killed because of its number, its name or a path alone.
- A mark counts only for a process of the mesh's users in the mesh's PID namespace: a container or
  another user may have got a copy of the environment.
- A warden never carries the marks of an outer mesh. Those of nested meshes have time to kill their
  own plugins before they are killed.
- `process_marker` and `warden_main` import the standard library and `meshtrio.util.processes` only,
  and lie in one directory, from which the isolated interpreter of the warden imports them.
"""
