"""The page that shows a network from inside: its layout, what it is told of the network, and its assembly."""
