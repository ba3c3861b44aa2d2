"""Whole numbers of more than 64 bits in JSON, found in its bytes.

A decoder of JSON turns such a number into a float, which has other digits. The bytes are searched before they
are decoded, so that the number is refused, or its text kept, and never rounded.
"""

from __future__ import annotations

import re
from typing import Final

#: Whole numbers that JSON decoders, CEL and Postgres keep exactly: signed or unsigned, of 64 bits.
_KEPT: Final = range(-(2**63), 2**64)
#: A whole number of so many digits that it may have more than 64 bits; no part of a fraction or exponent.
_LONG: Final = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")
#: A string of JSON.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
#: Digits that 64 bits never need: `int` of more of them would cost time, or fail.
_TOO_MANY: Final = 21
#: Digits that a message names.
_NAMED: Final = 40


def long_integer(outside_strings: bytes) -> str | None:
    """The first whole number of more than 64 bits, for a message; None if there is none.

    `outside_strings` is JSON without its strings, or a part of it that begins and ends between tokens.
    """
    for found in _LONG.finditer(outside_strings):
        number = found[0]
        if len(number) > _TOO_MANY or int(number) not in _KEPT:
            text = number.decode()
            return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"
    return None


def long_integer_in(text: str) -> str | None:
    """The same for a small text that is a whole document of JSON."""
    return long_integer(_STRING.sub(b'""', text.encode("utf-8", "surrogatepass")))
