"""One file per performance claim; each measures both sides in the same run."""
