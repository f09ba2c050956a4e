"""The control socket: its protocol, who answers, who serves, and who asks."""
