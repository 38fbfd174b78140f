"""`python -m ktbench`."""

from ktbench.cli import main

main()
