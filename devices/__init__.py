"""Targets: one profile per file, transports to reach them, and the agent that runs on them."""
