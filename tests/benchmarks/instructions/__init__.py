"""The benchmark of instructions; see `__main__`."""
