"""One checkpoint under test, from its path to an `AuditResult`; imports no pytest."""
