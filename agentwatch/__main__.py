"""`python -m agentwatch`."""

from agentwatch.cli.main import main

main()
