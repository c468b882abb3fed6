"""Nothing outlives a mesh: how processes are recognized, and who kills which of them in each case.

Every process of a mesh inherits marks: MESH_ID and MESH_LAUNCH_ID in its environment, and a soft
limit of RLIMIT_RSS that encodes both (`process_marker`). `mesh_run` makes the marks of one run of
a mesh and records its random id in the lock file of the runtime dir. `process_tree` answers the
opposite question, whether a given process belongs to a plugin.

Who kills what:

| Case | Killed by | Recognized by |
| --- | --- | --- |
| A plugin exits or is stopped | `spawn.plugin_process` | its process group |
| ... and has left processes elsewhere | `leftover_killer` | marks, session, cgroup |
| ... which have dropped every mark | `reparented` | became children of the mesh, a subreaper |
| The mesh stops | `mesh_run.MeshRun.kill_remaining`, last of all | marks |
| The mesh is killed | the warden (`warden_main`) | pidfds, descendants, cgroups, marks |
| The mesh and its warden are killed | `mesh_exit`, in each plugin in Python | its marks |
| ... and the plugin cannot do it | `mesh_run.kill_earlier_runs`, in the next mesh | marks |

Zombies are reaped by their parents: `spawn.child_process` reaps what the mesh has started, and
`zombie_reaper` what the kernel has made a child of the mesh, as PID 1 or as a `subreaper`.

Ownership: the mesh owns a `Warden`, which owns one warden process at a time and restarts it if it
dies. The warden process holds the pidfds of all plugins. `Cgroups` holds a lock on the delegated
directory, since what is in there is killed and removed.

Order of calls in a mesh: claim the runtime dir, `kill_earlier_runs`, `MeshRun.record_users`,
`Warden.run`, plugins; at the end all plugins, `ReparentedProcesses`, `Warden`, `kill_remaining`,
release of the runtime dir. A process is marked, and its user recorded, before its first instruction
runs or as soon as possible after it; the warden makes a second pass for that reason.

Invariants:

- No process is killed because of its number, its name or a path alone.
- A mark counts only for a process of the mesh's users in the mesh's PID namespace: a container or
  another user may have got a copy of the environment.
- A warden never carries the marks of an outer mesh; it is killed last of all.
- `process_marker` and `warden_main` import the standard library and `meshtrio.util.pidfd` only, and
  lie in one directory, from which the isolated interpreter of the warden imports them.
"""
