"""`python -m fasttrain`."""

from .cli.main import main

main()
