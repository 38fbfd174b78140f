"""The program on the board: standard library, numpy and a runtime, in Python 3.6 syntax."""
