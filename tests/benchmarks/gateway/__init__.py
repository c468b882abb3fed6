"""The gateway benchmark; see `__main__`."""
