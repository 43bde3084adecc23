"""The probes, one a file; each file has a `PROBE`, and the docs a page of its name."""
