"""Benchmarks: Perdure measured on the real control plane, with simulated nodes.

    python -m tests.bench                 all of them
    python -m tests.bench B2 --chains 200 one, larger

They print tables and write JSON to `.bench/`. Nothing here asserts a time: a benchmark fails when what it
ran did not come out right (a run that did not succeed, a pod made twice), never because it was slow.
"""
