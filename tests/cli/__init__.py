"""The command line: each command as a process of its own, on a mesh of real plugins."""
