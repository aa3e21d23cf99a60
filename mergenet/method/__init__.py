"""The method of MergeNet (arXiv 2404.13322) in pure torch: ports, encodings, adapters, transfers."""
