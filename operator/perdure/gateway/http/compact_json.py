"""JSON that is checked and made compact while it arrives, without building the value.

The value of one MiB of JSON may be 24 MiB of objects, whose construction holds the event loop for longer than
any callback may take. So the bytes are processed in slices: white space and needless escapes are removed,
depth and characters are checked, and orjson validates pieces that end at a comma. A number keeps the digits
that were sent.

Validation by pieces: between two commas outside strings, a document is a sequence of whole tokens. Such a
piece, with the brackets that are open at its start before it and those that are open at its end after it, is
a document of its own, and a document is valid exactly if all its pieces are, no piece is empty, and brackets
match.
"""

from __future__ import annotations

import gc
import re
from itertools import accumulate
from typing import Final

import orjson

from perdure.domain.numbers import long_integer

#: Bytes that are processed without a turn of the event loop: about 10 ms for the worst of them.
SLICE: Final = 32 * 1024

_SPACE: Final = b" \t\n\r"
#: Control characters that no JSON contains; the two lowest are used as placeholders below.
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
#: Stand for an escaped backslash and an escaped quote while strings are separated from the rest.
_BACKSLASH: Final = b"\x01"
_QUOTE: Final = b"\x02"
#: White space between two characters of numbers or words: without it they would become one.
_SPLIT_TOKEN: Final = re.compile(rb"[^\[\]{},: \t\n\r][ \t\n\r]+[^\[\]{},: \t\n\r]")
#: Characters outside strings that are no structure: of numbers, words and white space.
_TOKEN: Final = bytes(set(range(256)) - set(b'[]{},:"'))
_SPACES: Final = re.compile(rb"[ \t\n\r]+")
#: Bytes of one number or word.
LONGEST_TOKEN: Final = 16 * 1024
#: An escape that may go on after the end of a slice: the second half of a pair of surrogates belongs to the
#: first.
_OPEN_ESCAPE: Final = re.compile(
    rb"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?))?\Z"
)
_PAIR: Final = re.compile(rb"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_ESCAPE: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_NOT_BRACKETS: Final = b","
#: What a character of structure adds to the depth.
_DELTA: Final = {91: 1, 123: 1, 93: -1, 125: -1, 44: 0}
_AT_COMMA: Final = bytes(0xFF if code == 44 else 0 for code in range(256))
_AT_ONE: Final = bytes(0xFF if code == 1 else 0 for code in range(256))
_CLOSES: Final = {91: b"]", 123: b"}"}
#: Characters before which, and after which, no comma stands.
_NO_COMMA_BEFORE: Final = frozenset(b"]},")
_NO_COMMA_AFTER: Final = frozenset(b"[{,:")


class InvalidJson(Exception):
    """The bytes are no JSON document."""


class TooDeep(Exception):
    """Lists and maps are nested deeper than allowed."""


class NulCharacter(Exception):
    """A string has the character U+0000, which Postgres cannot keep."""


class LongInteger(Exception):
    """A whole number has more than 64 bits, of which decoders keep the first digits only."""


class TooLong(Exception):
    """The compact document is longer than allowed: it has `size` bytes, or more that were not read."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


class CompactJson:
    """One document. `feed` it slices of at most `SLICE` bytes, then `finish`."""

    def __init__(self, *, limit: int, depth: int) -> None:
        """`limit` is the size of the compact document in bytes, `depth` that of its nesting."""
        self._limit = limit
        self._depth_limit = depth
        self._size = 0
        #: Whole slices of the compact document.
        self._done: list[bytes] = []
        #: Bytes that may go on in the next slice.
        self._carry = b""
        self._in_string = False
        #: Brackets that are open at the end of what was processed.
        self._stack = bytearray()
        #: The beginning of the piece that is validated next, and the brackets that were open at its start.
        self._piece: list[bytes] = []
        self._opened = b""
        #: True once there was a comma directly within the outermost bracket.
        self.several = False

    def feed(self, slice_: bytes) -> None:
        """Process the next bytes. Raises InvalidJson, TooDeep, NulCharacter, LongInteger, TooLong."""
        self._process(self._carry + slice_, last=False)

    def finish(self) -> bytes:
        """The compact document. Raises as `feed`."""
        self._process(self._carry, last=True)
        if self._in_string or self._stack:
            raise InvalidJson("the document ends too early")
        self._validate(b"")
        return b"".join(self._done)

    def _process(self, data: bytes, *, last: bool) -> None:
        if _FORBIDDEN.search(data):
            raise InvalidJson("there is a control character; in a string, write it as an escape")
        escaped = b"\\" in data
        if escaped:
            data = data.replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE)
        parts = data.split(b'"')
        # Strings and the rest take turns.
        ends_in_string = self._in_string ^ (len(parts) % 2 == 0)
        self._carry = b""
        if not last and ends_in_string:
            found = _OPEN_ESCAPE.search(parts[-1]) if escaped else None
            if found is not None:
                self._carry = found[0]
                parts[-1] = parts[-1][: found.start()]
        elif not last:
            whole = parts[-1].rstrip(_TOKEN)
            # Of white space, one character is enough to separate two tokens.
            self._carry = _SPACES.sub(b" ", parts[-1][len(whole) :])
            parts[-1] = whole
            if len(self._carry) > LONGEST_TOKEN:
                raise InvalidJson(f"a number has more than {LONGEST_TOKEN} characters")
            self._carry = self._carry.replace(_BACKSLASH, b"\\\\").replace(_QUOTE, b'\\"')
        first = 1 if self._in_string else 0
        self._in_string = ends_in_string
        outside = parts[first::2]
        for position, part in enumerate(outside):
            if part and not part.isspace():
                if _SPLIT_TOKEN.search(part):
                    raise InvalidJson("there is white space where a comma or colon is expected")
                outside[position] = part.translate(None, _SPACE)
            elif part:
                outside[position] = b""
        parts[first::2] = outside
        text = b'"'.join(parts)
        if escaped:
            text = _plain(text)
        self._size += len(text)
        self._done.append(text)
        self._measure(text, parts, outside, first, escaped=escaped)
        if self._size > self._limit:
            raise TooLong(self._size)

    def _measure(
        self, text: bytes, parts: list[bytes], outside: list[bytes], first: int, *, escaped: bool
    ) -> None:
        """Check the depth, and validate up to the last comma outside strings."""
        # Slices end between tokens, so a number is never divided.
        joined = b"".join(outside)
        if (number := long_integer(joined)) is not None:
            raise LongInteger(number)
        structure = joined.translate(None, _NOT_STRUCTURE)
        self._check_depth(structure)
        cut = next((at for at in range(len(outside) - 1, -1, -1) if b"," in outside[at]), None)
        if cut is None:
            self._piece.append(text)
            self._open(structure)
            return
        place = first + 2 * cut
        comma = parts[place].rindex(b",")
        rest = b'"'.join([parts[place][comma + 1 :], *parts[place + 1 :]])
        if escaped:
            rest = _plain(rest)
        within = b"".join(outside[:cut]) + outside[cut][:comma]
        self._open(within.translate(None, _NOT_STRUCTURE))
        self._piece.append(text[: len(text) - len(rest) - 1])
        self._validate(b",")
        self._piece.append(rest)
        after = outside[cut][comma + 1 :] + b"".join(outside[cut + 1 :])
        self._open(after.translate(None, _NOT_STRUCTURE))

    def _check_depth(self, structure: bytes) -> None:
        if not structure:
            return
        try:
            depths = bytes(accumulate(map(_DELTA.__getitem__, structure), initial=len(self._stack)))
        except ValueError:
            # A depth below zero, or above what a byte holds.
            if b"]" in structure or b"}" in structure:
                self._open(structure)
            raise TooDeep from None
        if max(depths) > self._depth_limit:
            raise TooDeep
        commas = int.from_bytes(structure.translate(_AT_COMMA))
        ones = int.from_bytes(depths[1:].translate(_AT_ONE))
        self.several = self.several or bool(commas & ones)

    def _open(self, structure: bytes) -> None:
        """Follow the brackets. Raises InvalidJson if one is closed that was not opened."""
        brackets = structure.translate(None, _NOT_BRACKETS)
        while True:
            left = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == len(brackets):
                break
            brackets = left
        for bracket in brackets:
            if bracket in _CLOSES:
                self._stack.append(bracket)
            elif not self._stack or _CLOSES[self._stack.pop()][0] != bracket:
                raise InvalidJson("brackets do not match")

    def _validate(self, end: bytes) -> None:
        """Validate the piece, which `end` follows, and begin the next."""
        piece = b"".join(self._piece)
        self._piece.clear()
        if (end or self._opened) and (
            not piece or piece[0] in _NO_COMMA_BEFORE or (end and piece[-1] in _NO_COMMA_AFTER)
        ):
            raise InvalidJson("there is a comma too many")
        opening = b""
        if self._opened:
            outer = b"".join(b'{"":' if bracket == 123 else b"[" for bracket in self._opened[:-1])
            opening = outer + bytes(self._opened[-1:])
        closing = b"".join(_CLOSES[bracket] for bracket in reversed(self._stack))
        # The value is dropped at once and has no cycles. A collection that its objects cause would traverse
        # the whole process, for longer than a callback may take.
        collecting = gc.isenabled()
        gc.disable()
        try:
            orjson.loads(opening + piece + closing)
        except orjson.JSONDecodeError as error:
            raise InvalidJson(str(error).partition(": line")[0]) from None
        finally:
            if collecting:
                gc.enable()
        if end and not self._stack:
            raise InvalidJson("there is something after the end")
        self._opened = bytes(self._stack)


def _plain(text: bytes) -> bytes:
    """The text with escapes only where JSON needs them, and without placeholders."""
    if b"\\u" in text:
        text = _PAIR.sub(_pair, text)
        text = _ESCAPE.sub(_character, text)
    return text.replace(b"\\/", b"/").replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\")


def _pair(found: re.Match[bytes]) -> bytes:
    high, low = int(found[1], 16), int(found[2], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()


def _character(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16)
    if code == 0:
        raise NulCharacter
    if 0xD800 <= code <= 0xDFFF:
        raise InvalidJson("a string has half a surrogate pair")
    if code < 0x20:
        return found[0]
    if code in (0x22, 0x5C):
        return _QUOTE if code == 0x22 else _BACKSLASH
    return chr(code).encode()
