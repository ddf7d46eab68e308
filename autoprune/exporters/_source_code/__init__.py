"""Python source that defines a network, from a traced program."""
