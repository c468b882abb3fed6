"""Follows the keys with a prefix through all that happens to etcd."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from meshtrio.etcd.cluster import Cluster
from meshtrio.etcd.errors import EtcdCompactedError, EtcdError, EtcdUnavailableError
from meshtrio.etcd.listing import list_prefix
from meshtrio.etcd.members import CALL_TIMEOUT, MemberStream
from meshtrio.etcd.values import KeyValue, PrefixChange, WatchStatus, encode_prefix
from meshtrio.etcd.watch_decoder import WatchDecoder
from meshtrio.messages import etcd as messages
from meshtrio.util.backoff import Backoff
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.shared_rng import RNG

_log = logging.getLogger("meshtrio.etcd")

_PROGRESS_INTERVAL = 2.0
"""Seconds between progress requests, which a member answers: two in `CALL_TIMEOUT`, so that a lost
packet has time to be sent again."""
_STABLE_TIME = 5.0
"""Seconds after which a watch counts as successful, so that the next failure is the first."""
_BACKOFF = Backoff(initial=0.1, maximum=2.0, multiplier=2.0, jitter=0.5)
"""Delays between attempts. Meshes that lose the same member do not return at the same moment; after
an outage each is back within 3 s of its connection."""


class PrefixWatch:
    """A view of the keys with a prefix; see `EtcdClient.watch_prefix`.

    Each attempt lists the keys if the view is missing or out of date, and then watches from the
    view's revision on until something fails. The view itself is the caller's, who gets changes.
    """

    def __init__(
        self,
        cluster: Cluster,
        prefix: str,
        on_change: Callable[[PrefixChange], None],
        on_status: Callable[[WatchStatus], None],
    ) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._key, self._range_end = encode_prefix(prefix)
        self._operation = f"watching {prefix!r}"
        self._on_change, self._on_status = on_change, on_status
        self._problem_log = OncePerReasonLogger(_log)
        """Logs each kind of problem once until the watch has recovered: members fail in turn."""
        self._revision = 0
        """Revision of the view; 0 without one."""
        self._cluster_id = 0
        self._must_list = True
        self._failures = 0
        self._member = cluster.members.preferred.url
        self._confirmed_at = 0.0
        self._created_at = 0.0

    async def run(self) -> None:
        """Follow the keys until cancelled."""
        self._confirmed_at = trio.current_time()
        while True:
            try:
                is_resumed = not self._must_list
                if self._must_list:
                    await self._list()
                await self._follow(is_resumed)
            except EtcdError as exc:
                self._must_list |= isinstance(exc, EtcdCompactedError)
                self._problem_log.log(type(exc).__name__, "%s; retrying", exc)
                problem = str(exc)
            self._failures += 1
            self._report(problem)
            await trio.sleep(_BACKOFF.delay(self._failures, RNG))

    async def _list(self) -> None:
        try:
            keys, revision = await list_prefix(self._cluster, self._prefix)
        except EtcdUnavailableError as exc:
            if self._revision:
                raise  # What is known is as good as what a single member knows.
            try:
                keys, revision = await list_prefix(self._cluster, self._prefix, serializable=True)
            except EtcdError:
                raise exc from None
            self._report_snapshot(keys, revision)
            # Now that there is a view, it is followed as soon as there is a leader.
            raise
        self._confirmed_at = trio.current_time()
        self._report_snapshot(keys, revision)

    def _report_snapshot(self, keys: list[KeyValue], revision: int) -> None:
        self._revision, self._must_list = revision, False
        change = PrefixChange(is_snapshot=True, puts=keys, deletes=[], revision=revision)
        self._on_change(change)

    async def _follow(self, is_resumed: bool) -> None:
        """Watch until the watch fails. Raises EtcdError."""
        create = messages.WatchCreateRequest(
            key=self._key,
            range_end=self._range_end,
            start_revision=self._revision + 1,
            fragment=True,
        )
        async with self._cluster.open_stream(self._operation, "Watch") as stream:
            self._member = stream.member.url
            decoder = WatchDecoder(
                *(self._operation, self._member, self._revision),
                is_resumed=is_resumed,
                cluster_id=self._cluster_id,
            )
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(self._send_requests, stream, create, decoder)
                while True:
                    self._receive(decoder, await stream.receive(CALL_TIMEOUT))

    def _receive(self, decoder: WatchDecoder, response: messages.WatchResponse) -> None:
        was_created = decoder.is_created
        change = decoder.decode(response)
        now = self._confirmed_at = trio.current_time()
        if change is not None:
            self._on_change(change)
        self._revision = decoder.revision
        if not was_created and decoder.is_created:
            self._created_at, self._cluster_id = now, decoder.cluster_id
            if self._failures:
                _log.info("%s again, at %s", self._operation, self._member)
            self._problem_log.reset()
            self._report("")
            return
        if change is None and decoder.is_created:
            self._report("")  # The answer to a progress request: nothing has changed until now.
        if self._failures and now - self._created_at > _STABLE_TIME:
            self._failures = 0

    async def _send_requests(
        self, stream: MemberStream, create: messages.WatchCreateRequest, decoder: WatchDecoder
    ) -> None:
        """Create the watch; then have the member show again and again that it is there."""
        await stream.send(messages.WatchRequest(create=create))
        progress = messages.WatchRequest(progress=messages.WatchProgressRequest())
        while True:
            await trio.sleep(_PROGRESS_INTERVAL)
            if decoder.is_created:
                self._report("")
            if trio.current_time() - self._confirmed_at >= _PROGRESS_INTERVAL / 2:
                await stream.send(progress)

    def _report(self, problem: str) -> None:
        """Report the status; `problem` is "" while changes are received."""
        lag = trio.current_time() - self._confirmed_at
        status = WatchStatus(
            connected=not problem,
            problem=problem,
            lag=lag,
            revision=self._revision,
            member=self._member,
        )
        self._on_status(status)
