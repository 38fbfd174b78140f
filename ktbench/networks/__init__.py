"""How networks are looked at, kept, laid out in memory, checked and run."""
