"""`make bench`: how fast Lockstep is beside known tools, measured in one run on one machine."""
