"""Files, the machine and the provenance of records: what every room may use."""
