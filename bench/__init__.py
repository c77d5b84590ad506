"""Measurements of userdisk against tgt and against what the machine's TCP allows: `make bench`."""
