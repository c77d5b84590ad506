"""Asking any SCSI disk what it is, and saying it in words: `userdisk scsitool`."""
