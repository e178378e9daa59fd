"""How risky an asset looks now: market, network and technical risk on a 0-100 scale, with reasons.

:func:`~qaicl.oracle.risk.assessment.assess` is a pure function of its inputs; :mod:`~qaicl.oracle.risk.inputs`
fills them from stored figures.
"""
