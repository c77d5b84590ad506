"""SCSI wire formats: pure functions and tables, no state."""
