"""``python -m hwsmpq``, where the command is not on the path."""

from hwsmpq.cli import main

main()
