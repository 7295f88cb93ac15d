"""Ask questions about a panorama: the project that this example pretends to be."""
