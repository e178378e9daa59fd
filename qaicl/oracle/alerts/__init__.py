"""Alerts: from a measured condition to a message that arrives once.

Order, as in Prometheus' Alertmanager: dedupe by labels → group → route → silence and inhibit → wait, interval, repeat.
:mod:`~qaicl.oracle.alerts.engine` decides and writes what is to be sent into an outbox, in one transaction;
:mod:`~qaicl.oracle.alerts.outbox` delivers it, in whatever process runs next.
"""
