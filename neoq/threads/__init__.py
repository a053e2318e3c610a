"""Threads: how they start, loop and end, and where a thread is inside neoq."""
