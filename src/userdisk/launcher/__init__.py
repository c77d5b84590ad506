"""The launcher: a service that starts, supervises and stops units, each in processes of its own."""
