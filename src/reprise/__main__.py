"""`python -m reprise` and `torchrun -m reprise`."""

from reprise.cli import main

main()
