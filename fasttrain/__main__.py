"""`python -m fasttrain`."""

from .cli import main

main()
