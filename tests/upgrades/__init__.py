"""Kills during upgrades; see `__main__`."""
