"""Where a run happens: one distributed run on Ray Train."""
