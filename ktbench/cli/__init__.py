"""The command line: one module per command; heavy packages are imported inside commands."""

from ktbench.cli.app import main as main
