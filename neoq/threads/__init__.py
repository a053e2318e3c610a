"""Threads: how they start, loop, end and share a commit, and where a thread is inside neoq."""
