"""The rules of the tree: pure. No clock, no randomness, no database; what is needed comes in."""
