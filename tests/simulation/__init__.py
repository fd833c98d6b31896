"""A pure in-memory world: a server and devices whose agents use the real planner."""
