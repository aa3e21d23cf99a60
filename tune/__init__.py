"""Many runs: what they leave behind, mirrored to MLflow."""
