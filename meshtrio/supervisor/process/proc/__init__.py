"""What the kernel reports about processes and sockets: /proc and netlink. It only reads.

- `procfs` parses files of /proc. All of it is bytes: any user can choose names that are not UTF-8
  or that look like the rest of an entry.
- `proc_scanner` shares one scan of all processes among all tasks that need one at the same time.
- `resource_usage` and `activity` sum up what process groups use and do.
- `listening_sockets` finds TCP listeners and accept queues.

Invariants:

- An entry that cannot be read or parsed is skipped and never affects what is reported about other
  processes: it has exited, or is hidden from us (hidepid).
- Exhaustion of descriptors or memory is raised, because skipping would then look like exit.
- What scans all processes takes milliseconds and runs in a thread; scans for waiting tasks take at
  most a tenth of one CPU.
"""
