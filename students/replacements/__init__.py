"""Replacements of a block: one file each, found by its name (see `students/_blocks.py`)."""
