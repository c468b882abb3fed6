"""Benchmarks: commands of their own, not tests. `python -m tests.benchmarks.rpc`"""
