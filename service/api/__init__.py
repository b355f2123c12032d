"""The REST interface: thin synchronous handlers over `service.db`, and three asynchronous edges that only wait.

One request is one transaction. Errors become problems in `problems`, the OpenAPI document is completed in `documents`.
"""

from service.api.install import install

__all__ = ["install"]
