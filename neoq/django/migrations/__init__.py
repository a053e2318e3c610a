"""The migrations of neoq's application."""
