"""What every kind of plug-in, store and executor promises."""
