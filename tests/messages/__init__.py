"""Tests of the protobuf messages of the services that meshtrio itself speaks."""
