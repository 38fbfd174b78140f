"""Network architectures, one family per file; a teacher is drawn from here too."""
