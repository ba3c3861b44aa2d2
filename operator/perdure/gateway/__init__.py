"""HTTP service of the agents, and of every later group of callers: one route family each.

The gateway records facts and decides nothing: whether a report ends a task is the control loop's business.
The two meet only in the ledger.
"""
