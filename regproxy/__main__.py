"""`python -m regproxy`."""

from regproxy.cli import main

main()
