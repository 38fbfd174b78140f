"""What runs on the board: standard library, numpy and a runtime, in the syntax of Python 3.6."""
