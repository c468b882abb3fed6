"""What a process run has to report that it is ready, from before its start to its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs

from meshtrio.config.ready import FdCheck
from meshtrio.runtime_dir.notify_socket import adopt_notify_socket, bind_notify_socket
from meshtrio.supervisor.readiness.newline import NewlinePipe
from meshtrio.supervisor.readiness.notify_channel import NotifyChannel, SavedChannel
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.util.users import look_up_user


@attrs.frozen
class ReportChannels:
    """The channels by which a process reports that it is ready, as far as its config has them."""

    pipe: NewlinePipe | None = None
    """For `ready = "fd:N"`."""
    notify: NotifyChannel | None = None
    """For `ready = "notify"` and `liveness.check = "notify"`."""


@contextmanager
def open_channels(spec: RunSpec) -> Iterator[ReportChannels]:
    """Have the channels of a process run open during the block.

    Raises:
        OSError: No descriptor is left, or the socket cannot be bound.
        KeyError: The plugin's user does not exist.
    """
    pipe = notify = None
    with ExitStack() as stack:
        if isinstance(spec.ready_check, FdCheck):
            pipe = NewlinePipe(spec.ready_check.fd)
            stack.enter_context(pipe.opened())
        if spec.notify_socket is not None:
            user = spec.config.containment.user
            sock = stack.enter_context(bind_notify_socket(spec.notify_socket, spec.config))
            uids = {0, os.geteuid(), *(() if user is None else (look_up_user(user).pw_uid,))}
            name = f"{spec.config.name}/{spec.number}"
            notify = NotifyChannel(name, sock, frozenset(uids))
        yield ReportChannels(pipe, notify)


@contextmanager
def adopt_channels(spec: RunSpec, saved: SavedChannel | None) -> Iterator[ReportChannels]:
    """Have the channels that were handed over in an upgrade open during the block.

    A process that was to write to a pipe has done so. Raises OSError if no descriptor is left.
    """
    if saved is None or spec.notify_socket is None:
        yield ReportChannels()
        return
    with adopt_notify_socket(spec.notify_socket, saved.descriptor) as sock:
        name = f"{spec.config.name}/{spec.number}"
        yield ReportChannels(None, NotifyChannel.adopt(name, sock, saved))
