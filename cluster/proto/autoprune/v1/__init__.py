"""Version 1 of the service's interface. What ends in `_pb2` is generated; see `generate.py`."""
