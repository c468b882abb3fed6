"""Tests of the decisions: tables and models."""
