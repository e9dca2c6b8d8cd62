"""Random damage to the files that hpcnk reads; see tools/fuzz.py."""
