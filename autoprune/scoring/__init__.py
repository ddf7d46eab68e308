"""What units are worth: evidence about a dense network, gathered once, and tables of scores."""
