"""Imported by the worker, as tasks.py is."""

imported = True
