"""A client of etcd v3, spoken to by meshtrio's own channels; it knows nothing of meshes.

Theory of operation
-------------------

`open_client` (`client`) opens one channel to each *member* of the cluster (`members`). A call
(`cluster`) goes to the preferred member; one that is unreachable, or does not answer within
`CALL_TIMEOUT`, or that has no leader, is left for the next one, and the member that answers stays
preferred. A connection on which a member has been silent for so long is closed: packets may be
lost, and TCP would resume minutes after they are not. Each call tries each member once, so callers
that want more repeat it.

All requests ask for a leader (etcd's metadata `hasleader`), so that a member cut off from the
others refuses them at once instead of serving an old state. `authentication` has the token of a
user, which is renewed once for each call that etcd refuses because of it.

Two things run for long and recover by themselves, with jittered backoff:

- `PrefixWatch` (`watch`) keeps a view of the keys with a prefix: a snapshot, which `listing` reads
  in pages of one revision, and then changes, which `watch_decoder` makes of etcd's responses. After
  a failure it resumes from the revision of its view; if etcd has compacted that, or its history is
  another one, it reports a new snapshot. A silent member is noticed by progress requests.
- `LeaseKeeper` (`lease`) keeps a lease, whose state is `lease_state`.

Invariants
----------

- A view never goes back: a snapshot is older than the last one only if etcd's own history is.
- Only listing a prefix falls back to a serializable read, which a member without a leader serves
  from its own state, which may be old. `PrefixWatch` uses it for its first snapshot alone: a view
  it has is as good. The watch resumes from that snapshot, since any state of a member is a past
  state of the cluster.
- The revisions of progress notifications are not used: etcd before 3.4.25 and 3.5.8 may send them
  ahead of earlier events.
- A lease counts as lost as soon as its TTL, from the time that the last successful renewal was
  sent, has passed on CLOCK_BOOTTIME. It is then not used again, even if etcd still has it.
- No HTTP/2 keepalive: etcd closes connections that send PINGs without calls. Requests with
  deadlines take its place.
"""

from meshtrio.etcd.client import EtcdClient as EtcdClient
from meshtrio.etcd.client import open_client as open_client
from meshtrio.etcd.errors import EtcdAuthError as EtcdAuthError
from meshtrio.etcd.errors import EtcdError as EtcdError
from meshtrio.etcd.errors import EtcdLeaseNotFoundError as EtcdLeaseNotFoundError
from meshtrio.etcd.errors import EtcdNoLeaderError as EtcdNoLeaderError
from meshtrio.etcd.errors import EtcdNoSpaceError as EtcdNoSpaceError
from meshtrio.etcd.errors import EtcdUnavailableError as EtcdUnavailableError
from meshtrio.etcd.lease import LeaseKeeper as LeaseKeeper
from meshtrio.etcd.lease import LeaseStatus as LeaseStatus
from meshtrio.etcd.values import KeyValue as KeyValue
from meshtrio.etcd.values import PrefixChange as PrefixChange
from meshtrio.etcd.values import WatchStatus as WatchStatus
