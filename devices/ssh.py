"""Any Linux machine that OpenSSH reaches and that has Python and a runtime."""

from ktbench.devices._contract import Profile

PROFILE = Profile(title="a board over SSH", transport="ssh", architectures=())
