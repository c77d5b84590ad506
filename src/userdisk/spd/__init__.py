"""WinSpd's pipe protocol, with no I/O: storage devices and their clients on one machine."""
