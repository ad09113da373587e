"""What every other package uses: the errors, reading and writing of files, budgets of readers, escaping of names."""
