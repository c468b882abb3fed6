"""Tests of what a client decides."""
