"""One module per system, with one class `A`; see `kit.Adapter`."""
