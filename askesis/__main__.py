"""`python -m askesis`."""

from askesis.cli import main

main()
