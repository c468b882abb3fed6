"""Tests of the code generator, with the real protoc."""
