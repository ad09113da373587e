"""The version of the package, stated once: the build reads it here."""

__version__ = "0.2.0"
