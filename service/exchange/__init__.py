"""Tables of measurements: read, checked and written. Knows no SQL.

A file goes ``readers`` → ``layout`` (which column means what) → ``rows`` (checked, as arrays; ``architectures`` and
``cells`` help) → ``spool`` (on disk, by key), batch by batch in constant memory. ``writers`` is the way out.
``listing`` reads files of architectures alone.
"""

from service.exchange.layout import Layout
from service.exchange.listing import Listed, listed
from service.exchange.readers import read
from service.exchange.report import Errors
from service.exchange.rows import Rows
from service.exchange.spool import Spool
from service.exchange.writers import Line, write

__all__ = ["Errors", "Layout", "Line", "Listed", "Rows", "Spool", "listed", "read", "write"]
