"""Criteria side by side: the same network, data, counts and recovery, over shares and seeds."""
