"""``python -m l2rfast.cli``, for launchers that start a module, as torchrun does."""

from . import main

main()
