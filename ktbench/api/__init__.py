"""The Python face: what `import ktbench` offers, and what the commands do their work with."""
