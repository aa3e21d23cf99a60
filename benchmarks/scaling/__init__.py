"""What `benchmarks/scale.py` is made of: models, a simulated cluster, and what measures the numbers for them."""
