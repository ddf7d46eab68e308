"""The controller: what to run next, and the loop that runs it."""
