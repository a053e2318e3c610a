"""The commands, one module each; the name of a module is the name of its command."""
