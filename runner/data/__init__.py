"""dataset → Examples: read, template, holdout, ids, checks."""
