"""Meshes of several hosts as one: registration and discovery in etcd.

Theory of operation
-------------------
Each mesh with a `[mesh.discovery]` table is a *node*. `Node` runs three tasks beside the mesh, none
of which the mesh waits for: it starts, serves and stops without etcd.

- A `LeaseKeeper` (`etcd/lease`) keeps the node's lease, with which all of its keys are put.
- `Publisher` claims the node's name, and keeps the keys of its endpoints as the registry has them.
  The keys of one service are computed when the registry reports that it has changed. A new lease
  means that all keys are put again. Before a plugin is stopped, `Publisher.flush` waits until its
  key is gone.
- `Follower` watches all keys below the prefix, and sets the endpoints of other nodes in the
  registry. Clients in and beside the mesh find them there, like any others.

A client without a mesh on its host follows the keys of one service only (`connecting`).

Invariants
----------
- A node writes no key before it owns its name, and only with the lease that it owns it by. So two
  meshes never write the same keys.
- The keys of other nodes are never written.
- While etcd is away, endpoints stay as they were last known. A service that had endpoints stays
  managed for a while after the last is gone, so that callers wait during a restart elsewhere.
- Calls that a gateway has forwarded are sent to this node's own endpoints only.
"""
