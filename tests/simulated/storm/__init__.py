"""The storm: seeded fault injection with every fault that a run can meet, several at the same time.

`scenario.simulate(seed)` runs one world from its start to rest. Each part of the product is a process that
can be frozen or killed at any await; calls between processes are lost or late; users pause, cancel and delete
runs; and `tests/fakes/guarantees.py` checks every single change.
"""
