"""Tests of supervision policies: tables and models."""
