"""Where observations come from: one module a service, all behind :class:`qaicl.oracle.sources.protocol.Source`."""
