"""Protobuf messages of the services that meshtrio itself speaks; made by protos/generate.py."""
