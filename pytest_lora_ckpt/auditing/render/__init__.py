"""A report, made readable: one module per form. A renderer computes nothing."""
