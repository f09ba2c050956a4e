"""Programs that agents under test run: C compiled by `tests.lab`, Python run as scripts."""
