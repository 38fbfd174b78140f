"""Blockwise students and searches over their blocks in the report."""
