"""The search against other ways to prune, as fast and trained as long. See `__main__`."""
