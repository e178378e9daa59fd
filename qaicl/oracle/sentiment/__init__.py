"""The oracle's reading of headlines."""
