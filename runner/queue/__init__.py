"""Submit, claim, supervise, resume: used by the foreground verbs and by `watch`."""
