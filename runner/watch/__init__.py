"""`runner watch`: the folder `jobs/` is the queue."""
