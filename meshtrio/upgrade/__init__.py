"""Upgrade in place: a mesh executes its new code in its own process (execve(2)).

Theory of operation. The process stays the parent of its plugins, and keeps its pid and all
descriptors that are inheritable. So the new program only needs to know what they are: the old one
writes its state (`SavedMesh`) to memory, and passes the number of that descriptor in an environment
variable.

Order of an upgrade:

1. The new program is run as another process (`serve --check-upgrade`) with the state as it is now
   and its config. It checks that it could take over, and exits.
2. `Upgrader` waits until no operation is in progress and no process is being started or ended, and
   answers the request.
3. Connections are no longer accepted but wait in the backlogs, and those that there are drain:
   their clients connect again. Registered endpoints stay in the registry.
4. In one step of the event loop, without a checkpoint, the state is saved and the program is
   executed.
   Plugins notice nothing: their pipes, sockets and the pidfd of the mesh stay open.
5. The new program adopts the state before it does anything else, serves, supervises the processes,
   and then applies what has changed in the config, as a reload does.

Invariants:

- If anything fails before step 4, or in it, the old program goes on as before.
- If the new program cannot use its config after all, it executes itself once more, with the config
  that was in force before.
- The warden watches the mesh by its pidfd, which an execve does not end. If the mesh dies in any of
  these steps, it kills all plugins, as at any other time.
- Signals that arrive during the step are delivered to the new program (`SignalHold`).
"""
