"""The command line: ``frontier``."""

from service.cli.root import main

__all__ = ["main"]
