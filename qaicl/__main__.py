"""``python -m qaicl``."""

from qaicl.cli.main import main

main()
