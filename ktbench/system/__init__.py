"""Files, the machine and the provenance of records, for every room to use."""
