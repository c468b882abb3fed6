"""Tests of processes, real ones."""
