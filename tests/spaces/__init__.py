"""What the contract tests of spaces try: a module per plug-in, of its name.

Each states

- ``DEFAULT``: whether to try the plug-in without options: all have defaults, and such networks run in no time.
- ``VARIANTS``: options by name. A variant whose name begins with "tiny" has few enough architectures to list.
- ``PINNED``: by variant, its digest and the keys of its smallest and its largest network. They never change: what is
  stored is found by them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from search_spaces.plugins import names

_MODULES = {plugin: import_module(f"tests.spaces.{plugin}") for plugin in names("spaces")}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{plugin}-{variant}": (plugin, options)
    for plugin, module in _MODULES.items()
    for variant, options in {**({"default": {}} if module.DEFAULT else {}), **module.VARIANTS}.items()
}
"""(plug-in, options) by ``plug-in-variant``."""

PINNED: dict[str, tuple[str, str, str]] = {
    f"{plugin}-{variant}": pins for plugin, module in _MODULES.items() for variant, pins in module.PINNED.items()
}
