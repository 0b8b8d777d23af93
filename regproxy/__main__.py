"""`python -m regproxy`."""

from regproxy.cli.entry import main

main()
