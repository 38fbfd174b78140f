"""Pools of teachers in the report."""
