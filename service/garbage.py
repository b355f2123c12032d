"""How often a server process looks for garbage in circles."""

from __future__ import annotations

import gc

_YOUNG = 50_000


def collect_rarely() -> None:
    """To be called once all modules are loaded.

    Requests make many objects that live shortly, and nearly none in circles. By default Python looks for circles after
    every 700 of them, and every so often through everything that was ever loaded: a fifth of the time of a busy server.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
