"""The command line: one file a command group; click, and nothing that is slow to import."""
