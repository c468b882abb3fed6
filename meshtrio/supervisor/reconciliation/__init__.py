"""What the supervisor loop does in its turns, so that the processes are what they are to be.

Theory of operation
-------------------

The loop, one task, calls `Reconciler.reconcile`, sleeps until something has happened or is due,
and gives the runs that have ended to `ExitHandler`. Requests only change phases of instances and
wake it up.

    reconciler          starts, replaces and stops the runs that are due
    run_factory         makes them
    run_reaper          runs them to their ends, and kills what they leave behind
    exit_handler        what follows the end of a run: a restart, an escalation, or nothing
    demand_controller   starts of instances by connections and calls
    dependency_tracker  which dependencies are met
    waiting             explanations of those that are not
    recycler            a task of its own: requests replacements of runs that are too old or large

Decisions are those of `policy/`; these modules carry them out.
"""
