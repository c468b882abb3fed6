"""meshtrio.v1.Control: looking at a running mesh."""

from __future__ import annotations

from typing import Any

from meshtrio.messages import control
from meshtrio.rpc.dynamic import service_of
from meshtrio.supervise.tree import Tree


class ControlServicer:
    """Answers for one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.service = service_of(control.DESCRIPTOR.services_by_name["Control"], self)

    async def ListInstances(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return control.ListInstancesResponse(
            instances=[
                control.Instance(
                    name=status.name,
                    instance=status.instance,
                    pid=status.pid,
                    state=status.state.value,
                    restarts=status.restarts,
                    uptime=status.uptime,
                    socket=str(status.socket),
                    reason=status.reason,
                )
                for status in self._tree.statuses()
            ]
        )
