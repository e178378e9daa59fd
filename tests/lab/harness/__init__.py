"""Three real Debian machines on one: namespaces, overlays and systemd-nspawn, torn down without a trace."""
