"""`runner emulate` in CI: warm processes, checks with one verdict each, and reports that machines and people read."""
