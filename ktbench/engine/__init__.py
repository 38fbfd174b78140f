"""Engines: they run jobs in a child process, in this process, or on Ray."""
