"""What a server knows of a job's log in memory: fronts as of every event, and what lies where."""
