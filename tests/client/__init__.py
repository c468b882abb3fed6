"""Tests of channels and what they do with calls, over real sockets."""
