"""The command `neoq`. Nothing else of the package imports it.

Each command is a module of `neoq.cli.commands`, and is imported only when it is called. Such a module has:

- ``HELP``: one line for the overview, ``EXAMPLE``: a command line that ends its own help;
- ``GROUP``: where the overview lists it, one of `neoq.cli.main.GROUPS`;
- ``add_arguments(parser)``, and ``run(args) -> int``, which returns an exit code.

What is slow to import (a store, an application) is imported in ``run``, so that the overview and the
completion of the shell stay fast.
"""
