"""Knowledge-transfer techniques, one per file."""
