"""Exercising a disk: operations in a known order, what each block may hold, proof after a crash."""
