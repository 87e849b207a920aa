"""`python -m musegen`."""

from musegen.cli import main

main()
