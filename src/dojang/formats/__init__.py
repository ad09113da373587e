"""How networks come in and go out; each format reads and writes in one file."""
