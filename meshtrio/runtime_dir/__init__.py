"""The runtime dir of a mesh: the directory of its sockets and its lock file.

- `paths`: the default directory and the mesh socket, as clients know them.
- `directory`: paths of the directory of a config and its sockets, checks of the config, and
  preparing the path of a plugin's socket.
- `claim`: the mesh's side. `claim_runtime_dir` makes the directory ours for the run of a mesh.
- `trust`: the client's side. It finds the mesh socket, and refuses one that another user may have
  put there.
- `lock_file`: the format and the locking of `mesh.lock`.

Ownership: the mesh that holds the flock on `mesh.lock` owns the directory. It has mode 0700, or
0711 if other users may reach sockets in it. A plugin that runs as another user owns a subdirectory.

Order of calls in a mesh: `directory.validate`, `claim_runtime_dir`, for each start of a plugin
`prepare_plugin_socket`, and on exit `ClaimedRuntimeDir.release`. If someone removes the directory
meanwhile, `is_lost` becomes true, and `recreate` makes it again.

Invariants:

- The lock file is never unlinked: two later meshes could lock two files of the same name.
- A socket or a mesh run is recorded in the lock file before it comes into being, so that the next
  mesh finds what a mesh that was killed has left. Nothing is removed because of its name alone.
- A directory with content that has no lock file of ours is left unchanged.
- Files are opened relative to the descriptor of the directory and never through symbolic links,
  because others may replace what a path leads to.
"""
