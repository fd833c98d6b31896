"""`make test-large`: one file of any size through the real stack, with an agent that is killed on the way."""
