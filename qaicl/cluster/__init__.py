"""The brain of the cluster, without I/O.

``orchestrator.step`` and ``node.step`` take a state, an event and the time, change the state in place and return the
actions that the daemons carry out. Nothing in this package opens a socket, reads a clock or draws a random number,
so the simulator drives the very same code with a virtual clock.
"""
