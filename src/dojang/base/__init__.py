"""What every other room stands on: the error tree, whole-file writing, budgets of readers, names made visible."""
