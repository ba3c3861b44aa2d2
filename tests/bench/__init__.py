"""Benchmarks: Perdure measured on the real control plane, with simulated nodes.

    python -m tests.bench                all of them, as large as they are defined: hours
    python -m tests.bench B2 --chains 50 one, smaller
    python -m tests.bench --small        all of them, only to see that they run
    python -m tests.bench.report FILE    take results into docs/performance.md

They print progress and tables and write JSON to `.bench/`. Nothing here asserts a time: a benchmark fails
when what it ran did not come out right (a run that did not succeed, a pod made twice), never because it was
slow.
"""
