"""Blockwise distillation: a teacher's blocks replaced, each trained alone, then put together."""
