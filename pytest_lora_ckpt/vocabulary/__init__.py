"""Names that libraries and formats use, each list once and with its source. Data only: no module here has logic."""
