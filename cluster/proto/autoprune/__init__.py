"""Where the package of the protocol lies, as its name demands."""
