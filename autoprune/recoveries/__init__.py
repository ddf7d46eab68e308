"""How a pruned network is trained until it is good again, one file each."""
