"""What the commands do; `agent.cli` is their grammar."""
