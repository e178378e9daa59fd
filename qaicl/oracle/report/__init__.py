"""The market report: :mod:`~qaicl.oracle.report.builder` makes a plain data structure, the renderers show it.

No renderer computes a figure, and the builder formats none.
"""
