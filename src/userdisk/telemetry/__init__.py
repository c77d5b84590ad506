"""What the numbers of a server say: statistics, metrics, live commands, captures."""
