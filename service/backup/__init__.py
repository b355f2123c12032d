"""Backups: a database and the files that it refers to, in one file, taken while everything runs and put back later."""

from service.backup.archive import Manifest
from service.backup.making import Made, make
from service.backup.restoring import restore

__all__ = ["Made", "Manifest", "make", "restore"]
