"""Proves on a user's own trial that it gives the same bits from any stop, on any processes.

``verifying`` runs what ``scenarios`` plans, ``observer`` looks on from within the processes,
``comparing`` finds the first difference, and ``causes`` says what may be behind it.
"""
