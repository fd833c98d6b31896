"""How the system is run: images, compose files, and the local stack."""
