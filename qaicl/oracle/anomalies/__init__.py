"""Anomalies in streams of numbers, found as they come in and without labels.

:class:`~qaicl.oracle.anomalies.stream.StreamDetector` watches one series,
:class:`~qaicl.oracle.anomalies.correlation.JointDetector` several at once, and
:func:`~qaicl.oracle.anomalies.scan.scan` grades what they find.
"""
