"""Tests of the client of etcd, most of them with real clusters."""
