"""`python -m regproxy`."""

from regproxy.cli.main import main

main()
