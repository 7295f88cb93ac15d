"""pytest's side of the audit: hooks, items, fixtures."""
