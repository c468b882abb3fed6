"""The supervision benchmark; see `__main__`."""
