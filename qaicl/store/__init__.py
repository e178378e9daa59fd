"""Redis: what must outlive a process. Scripts for every compare-and-act, and a thread that talks to the server."""
