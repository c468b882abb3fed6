"""Warm starts: plugins in Python are forked from a template process that has their modules.

A template is a process of the mesh, started by exec as plugins are: in a session of its own, marked
as one of this mesh, watched by the warden. It imports meshtrio's part of a plugin and the config's
`preload`, and then forks on request. It is single-threaded, never runs trio, and holds nothing open
but its streams, the socket to the mesh and the pidfd of the mesh.

The modules are of two kinds. Those of the mesh:

    template_key      which plugins may share a template: those that would import the same code in
                      the same environment
    template          `Template`: one template process, and forks of it
    template_pool     `TemplatePool`: the templates of a mesh, by key; when one is started and ended

and those of the template process, which import the standard library only, since they also run in
interpreters of other environments:

    template_main     the program: preload, then serve requests
    preloading        imports modules, and finds what forbids to fork
    code_version      notices code that has changed, or that a program would import instead
    parent_clone      fork(2) whose child is a child of the mesh
    forked_child      makes a forked child what it would be after execve(2)
    process_map       shows its own command and environment in /proc
    compiled_scripts  compiles scripts once
    program_runner    runs the plugin's program as `__main__`

A start, step by step:

1. The mesh sends the template a request over its control socket, with descriptors: one end of a
   socket pair that belongs to this start (the gate), the plugin's streams, and the request itself
   in a memfd.
2. The template forks with CLONE_PARENT: the child is a child of the mesh. It reports the child's
   pid on the gate and closes all that it was sent.
3. The child closes what is the template's, and waits at the gate. If that closes, it exits.
4. The mesh opens the child's pidfd, verifies that it is its own child in the template's session,
   puts it in its cgroup, and lets it pass.
5. The child becomes leader of a session and a group, takes its descriptors, limits, directory,
   environment and marks, reports that it has started, and runs the program.

Invariants:

- The mesh is the parent of every forked plugin. Nothing else about a plugin's process is different
  for `spawn`, `cleanup` and `proc`.
- No program code runs in a child before the mesh knows its pid and has passed it.
- Until a child has its own session it is in the template's process group, which is killed when the
  template has ended. What is left then of the mesh's children in that session is reaped.
- If anything goes wrong, the plugin is started by exec, and the log says why, once for each reason.
"""
