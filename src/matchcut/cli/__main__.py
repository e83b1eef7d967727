"""`python -m matchcut.cli`."""

from matchcut.cli import main

main()
