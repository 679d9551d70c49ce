"""The report as data: schema, JUnit, earlier runs."""
