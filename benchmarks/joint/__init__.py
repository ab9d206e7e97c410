"""Widths and int8 in one search against the simple ways. See `__main__`."""
