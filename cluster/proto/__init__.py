"""The service's interface: protocol buffers, and the code that is generated from them."""
