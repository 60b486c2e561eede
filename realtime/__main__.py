"""`python -m realtime`."""

from .cli import main

main()
