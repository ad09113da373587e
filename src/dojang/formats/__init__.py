"""Reading and writing networks; each format is one file or one package."""
