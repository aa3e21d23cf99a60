"""Sweeps: what is searched (`sweep`, `space`, `plan`), what happened (`ledger`), how it is chosen and run."""
