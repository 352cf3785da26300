"""job.yaml → frozen JobSpec. The only reader of YAML."""
