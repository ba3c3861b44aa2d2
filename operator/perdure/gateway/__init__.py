"""The HTTP service that agents (and, later, people) talk to.

It records facts and decides nothing: whether a report ends a task is the control loop's business, and the two
meet only in the ledger.
"""
