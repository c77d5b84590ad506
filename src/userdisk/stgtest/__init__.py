"""stgtest: a test of a storage device, with WinSpd's operations and patterns, at any depth."""
