"""``python -m service.cli``: how the supervisor starts its children."""

from service.cli.root import main

main()
