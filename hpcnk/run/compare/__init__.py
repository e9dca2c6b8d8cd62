"""`hpcnk compare`: approximations and the exact solution on the same tiles, error against cost."""
