"""`python -m askesis.cli`."""

from askesis.cli.app import main

main()
