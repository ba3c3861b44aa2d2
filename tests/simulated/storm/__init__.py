"""Everything that can go wrong with a run, at once and from one seed.

`scenario.simulate(seed)` is one world, from its beginning to its end. Each part of the real system is a
process, frozen and killed at any await; between them lie wires on which calls are lost, late or answered by
nobody; people change their minds; and `guarantees` looks at every single change.
"""
