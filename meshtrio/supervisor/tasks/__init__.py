"""Tasks: programs that run to their end, once when the mesh starts, by a schedule, or on request.

- `state` has the states of a task and its transitions; `schedule_cursor` finds the runs of a
  schedule that are due or were missed. Both are pure, and get the time as an argument.
- `Task` is a row of the table of tasks: its state, its run, and the results of runs before.
- `TaskRun` owns one process, from its start to when it and its group are gone.
- `TaskRunner` owns the table. The supervisor loop calls its `reconcile`, which alone launches and
  stops runs, in the order of `policy.plan`.

The order of calls, for a run on request:

    Operations.run_task -> TaskRunner.request_run -> Task.request_run        (state PENDING)
    Supervisor._reconcile -> TaskRunner.reconcile -> plan_tasks -> TaskRun   (state RUNNING)
    TaskRun.run -> TaskRunner.handle_exits -> Task.handle_exit               (state COMPLETED)

Invariants:

- A task has at most one run. What is due meanwhile is reported as missed.
- When a run has ended, none of its processes is left, except for those that cannot be killed.
- While the mesh stops, no plugin is stopped before all tasks have ended.
"""
