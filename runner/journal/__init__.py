"""What can happen in a run: typed events, append, read. A leaf."""
