"""The management commands of neoq's application."""
