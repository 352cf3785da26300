"""SQLite: the queue, and everything that happened. Every write is a function of this room."""
