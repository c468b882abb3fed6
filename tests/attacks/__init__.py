"""Attacks on a mesh and its plugins, and what each of them costs: `python -m tests.attacks`.

Each attack is a module here with `async def run(address, seconds)`: it attacks the server at
`address` (`unix:/path`) for so long and returns. `launch` runs one in a process of its own, since a
mesh trusts the process that it runs in; `measure` runs a mesh, a plugin, an attack and a bystander,
and reads the memory of the first two and the latencies of the last.

Attackers come from this checkout and speak bytes of HTTP/2 on sockets. The mesh, the plugin and the
bystander may come from another one (`--before`), so the programs in `programs/` import nothing of
`tests`.
"""
