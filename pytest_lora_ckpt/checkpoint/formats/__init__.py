"""One module per format; `registry` finds them here."""
