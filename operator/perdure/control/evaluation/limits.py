"""Limits of an evaluation child.

The child sets them itself before it reads its first request; the operator enforces the time on the wall, for
a child that is stopped or swapped out and uses no CPU. Two children at their limits, and the operator at its
own budget of 200 MiB, stay within the memory limit of the chart (768 MiB): the kubelet has the kernel end the
whole container when its limit is exceeded, so a child must fail before that.
"""

from __future__ import annotations

#: Seconds of CPU time that one evaluation may take.
CPU_SECONDS = 1.0
#: Seconds after which an evaluation is given up whatever it does: a busy machine needs longer.
WALL_SECONDS = 5.0
#: Bytes of memory that a child may write, its interpreter included (about 15 MiB). 32 MiB of JSON, the most
#: that one evaluation sees, need some 200 MiB: as text, as objects, and as values of the evaluator.
DATA_BYTES = 256 * 1024 * 1024
#: Bytes of addresses, code and files that are mapped included.
ADDRESS_BYTES = 768 * 1024 * 1024
#: Bytes of the stack. An expression of MAX_TOKENS needs less than 1 MiB.
STACK_BYTES = 8 * 1024 * 1024
#: Compact JSON of what one expression gives.
MAX_RESULT_BYTES = 4 * 1024 * 1024
#: Values in what one expression gives, nested ones included: the operator parses it, in less than 50 ms. An
#: agent's output of 1 MiB has at most 524,289.
MAX_RESULT_VALUES = 600_000
#: Evaluations after which a child is replaced, so that memory that is lost to fragmentation comes back.
MAX_EVALUATIONS = 100_000
