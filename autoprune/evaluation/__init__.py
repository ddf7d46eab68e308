"""The evaluator: prune, repair, recover and measure one candidate."""
