"""The operations on a running mesh: each requests changes and waits until they are carried out.

Theory of operation
-------------------

`Operations` is what callers use, such as the control service. It finds the instances that a name
stands for, requests changes of them, and waits until the supervisor has carried these out; it
starts and stops no process itself.

    operations        the operations, each a method
    results           what they return
    name_resolver     which plugins and instances a name stands for
    progress          which operations are in progress; none is accepted during an upgrade
    instance_changes  stops, replacements and counts of instances
    start_waiting     waiting until instances are ready, or one has failed to start
    task_runs         runs of tasks on request, and stops
    reload            how two configs differ, and what is done about that
    execution         which execution of its program the mesh is in, and what upgrades it

Cancellation: Cancelling an operation, or its deadline, ends the waiting. What was requested is
still carried out, except for the rest of a rolling restart, which requests one replacement after
another.
"""

from meshtrio.supervisor.operations.execution import Execution as Execution
from meshtrio.supervisor.operations.execution import UpgradeHandler as UpgradeHandler
from meshtrio.supervisor.operations.operations import Operations as Operations
from meshtrio.supervisor.operations.reload import compare_configs as compare_configs
from meshtrio.supervisor.operations.results import DrainResult as DrainResult
from meshtrio.supervisor.operations.results import ReloadResult as ReloadResult
