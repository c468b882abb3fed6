"""Makes changes of the responses of a watch, without I/O."""

from __future__ import annotations

from meshtrio.etcd.errors import EtcdCompactedError, EtcdError, find_error_class
from meshtrio.etcd.values import KeyValue, PrefixChange, decode_key, decode_key_value
from meshtrio.messages import etcd as messages


class WatchDecoder:
    """Decodes the responses of one watch, which begins after the revision of a view."""

    def __init__(
        self, operation: str, member: str, revision: int, *, is_resumed: bool, cluster_id: int = 0
    ) -> None:
        """Begin with the view's revision.

        Args:
            operation: What the watch does, for errors.
            member: Endpoint of the member, for errors.
            revision: Revision of the view; the watch was created with the one after it.
            is_resumed: Whether the view is not from a list that was made just before.
            cluster_id: Id of the cluster that a resumed view is of, 0 if it is not known.
        """
        self.revision = revision
        """Revision of the view after the changes that were returned."""
        self.is_created = False
        """Whether the member has confirmed the watch."""
        self.cluster_id = cluster_id
        """Id of the cluster, 0 until it is known."""
        self._operation, self._member = operation, member
        self._is_resumed = is_resumed
        self._fragments: list[messages.WatchEvent] = []

    def decode(self, response: messages.WatchResponse) -> PrefixChange | None:
        """Return the change that a response completes, if any.

        Raises:
            EtcdCompactedError: The watch misses changes: the keys have to be listed again.
            EtcdError: The member has cancelled the watch.
        """
        if response.canceled or response.compact_revision:
            raise self._make_cancel_error(response)
        if response.created:
            self._check_history(response.header)
            self.is_created = True
        self._fragments.extend(response.events)
        if response.fragment or not self._fragments:
            return None
        events, self._fragments = self._fragments, []
        return self._make_change(events)

    def _check_history(self, header: messages.ResponseHeader) -> None:
        """Check that the member has the history that the view is of.

        A member that lags behind, or a cluster that was made anew, would send nothing until it has
        reached our revision. A list that the cluster agrees on shows which it is.
        """
        reason = ""
        if self._is_resumed and self.cluster_id not in (0, header.cluster_id):
            reason = "it belongs to another cluster than before"
        elif self._is_resumed and header.revision < self.revision:
            reason = f"its revision {header.revision} is before {self.revision}"
        self.cluster_id = header.cluster_id
        if reason:
            raise EtcdCompactedError(self._operation, reason, member=self._member)

    def _make_cancel_error(self, response: messages.WatchResponse) -> EtcdError:
        # Some versions have Go's text of the error here.
        reason = response.cancel_reason.rpartition(" desc = ")[2] or "it cancelled the watch"
        kind = find_error_class(reason) or EtcdError
        if response.compact_revision:
            kind = EtcdCompactedError
            reason = f"changes before revision {response.compact_revision} were compacted"
        return kind(self._operation, reason, member=self._member)

    def _make_change(self, events: list[messages.WatchEvent]) -> PrefixChange | None:
        """Coalesce events: of each key the last one counts."""
        latest: dict[str, KeyValue | None] = {}
        revision = self.revision
        for event in events:
            stored = event.key
            if stored.mod_revision <= self.revision:
                continue  # Known already.
            revision = max(revision, stored.mod_revision)
            if event.type == messages.WatchEvent.DELETE:
                key = decode_key(stored.key)
                if key is not None:
                    latest[key] = None
            elif (key_value := decode_key_value(stored)) is not None:
                latest[key_value.key] = key_value
        self.revision = revision
        if not latest:
            return None
        puts = [each for each in latest.values() if each is not None]
        deletes = [key for key, each in latest.items() if each is None]
        return PrefixChange(is_snapshot=False, puts=puts, deletes=deletes, revision=revision)
