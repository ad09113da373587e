"""How a network is executed on this machine."""
