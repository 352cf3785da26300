"""Sources that go into a bundle as they stand. They run in reward workers: standard library only, nothing of ours."""
