"""One file per Rewrite, and the search that accepts only what is measured to pay."""
