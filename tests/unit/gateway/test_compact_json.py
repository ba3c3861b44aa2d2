"""JSON that is checked and made compact in slices, compared with orjson."""

from __future__ import annotations

import json
import random
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.gateway.http.compact_json import (
    LONGEST_TOKEN,
    CompactJson,
    InvalidJson,
    LongInteger,
    NulCharacter,
    TooDeep,
    TooLong,
)


def compact(data: bytes, *, slice_: int = 7, limit: int = 1 << 20, depth: int = 100) -> bytes:
    document = CompactJson(limit=limit, depth=depth)
    for start in range(0, len(data), slice_):
        document.feed(data[start : start + slice_])
    return document.finish()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.sampled_from(['"', "\\", '\\"', "\\\\u0000", "[", "},{", "\u00e9\U0001f600", "/", "\x01\x02"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=5), inner, max_size=5
        )
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.integers(1, 40), st.sampled_from(["orjson", "indented", "escaped"]))
def test_every_document_becomes_the_compact_form_of_the_same_value(
    value: object, slice_: int, form: str
) -> None:
    if form == "orjson":
        data = orjson.dumps(value)
    elif form == "indented":
        data = json.dumps(value, indent=3, ensure_ascii=False).encode()
    else:
        data = json.dumps(value).encode()
    found = compact(data, slice_=slice_)
    assert orjson.loads(found) == orjson.loads(data)
    if form == "orjson":
        assert found == data
    # Nothing is left to shrink: the size is that of compact UTF-8 JSON.
    if form == "escaped":
        assert len(found) == len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


@settings(max_examples=1000, deadline=None)
@given(VALUES, st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_damaged_document_is_refused_exactly_if_orjson_refuses_it(
    value: object, slice_: int, choice: random.Random
) -> None:
    data = bytearray(orjson.dumps([value, value]))
    for _ in range(choice.randint(1, 3)):
        place = choice.randrange(len(data) or 1)
        kind = choice.randrange(3)
        if kind == 0 and data:
            del data[place]
        elif kind == 1:
            data.insert(place, choice.choice(b'[]{},:" \\e1-.u0n\n'))
        elif data:
            data[place] = choice.choice(b'[]{},:" \\e1-.u0n\n')
    try:
        expected = orjson.loads(bytes(data))
    except orjson.JSONDecodeError:
        with pytest.raises((InvalidJson, NulCharacter, LongInteger)):
            compact(bytes(data), slice_=slice_)
        return
    try:
        found = compact(bytes(data), slice_=slice_)
    except NulCharacter:
        assert b"\\u0000" in bytes(data)
        return
    except LongInteger:
        assert re.search(rb"\d{19}", bytes(data))
        return
    assert orjson.loads(found) == expected


NOT_JSON = [
    *(b"", b" ", b"[", b"]", b"[1,]", b"[,1]", b"[1,,2]", b'{"a":1,}', b'{"a",1}', b"[1 2]", b"[tr ue]"),
    *(b"1 2", b"1,2", b"[1}", b'{"a":[1}]', b'"a', b'["a\\"]', b"[1]]", b'{"a" "b":1}', b"[\x01]"),
    *(b'["\\ud800"]', b'["\\ud800\\u0041"]', b"[1e999]", b"[01]", b"[\xff]", b'["\xff"]', b'["\n"]', b"[-]"),
    *(b"[1]x", b"nul", b"{1:2}", b'{"a":}'),
]


@pytest.mark.parametrize("data", NOT_JSON)
@pytest.mark.parametrize("slice_", [1, 2, 3, 5, 1000])
def test_what_is_not_json_is_refused(data: bytes, slice_: int) -> None:
    with pytest.raises(InvalidJson):
        compact(data, slice_=slice_)


@pytest.mark.parametrize("slice_", [1, 3, 1000])
def test_numbers_keep_their_digits(slice_: int) -> None:
    data = b"[1.10, 1e5, 18446744073709551615, -9223372036854775808, -0.0, 0.1000000000000000055511151231]"
    assert compact(data, slice_=slice_) == data.replace(b" ", b"")


@pytest.mark.parametrize("slice_", [1, 3, 1000])
@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"9" * 5000])
def test_whole_numbers_of_more_than_64_bits_are_refused(number: bytes, slice_: int) -> None:
    for data in (number, b'{"output":' + number + b"}", b'[1,"x", ' + number + b" ]"):
        with pytest.raises(LongInteger):
            compact(data, slice_=slice_)


@pytest.mark.parametrize("slice_", [1, 3, 1000])
def test_long_digits_of_fractions_exponents_and_strings_are_kept(slice_: int) -> None:
    digits = b"9" * 40
    data = b'["%b",%b.5,0.%b,1e-0%b]' % (digits, digits, digits, digits)
    assert compact(data, slice_=slice_) == data


@pytest.mark.parametrize("slice_", [1, 6, 1000])
def test_the_character_that_postgres_refuses_is_found_and_the_text_of_its_escape_is_not(slice_: int) -> None:
    with pytest.raises(NulCharacter):
        compact(b'["a\\u0000"]', slice_=slice_)
    assert compact(b'["a\\\\u0000"]', slice_=slice_) == b'["a\\\\u0000"]'


@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_depth_at_the_limit_passes_and_one_deeper_is_refused(pair: bytes) -> None:
    inner = b"1"
    for _ in range(100):
        inner = b"[" + inner + b"]" if pair == b"[]" else b'{"a":' + inner + b"}"
    assert compact(inner) == inner
    with pytest.raises(TooDeep):
        compact(b"[" + inner + b"]")
    with pytest.raises(TooDeep):
        compact(b"[" * 100_000, slice_=1000)


def test_size_at_the_limit_passes_and_one_byte_more_is_refused() -> None:
    assert compact(b'[ "abc" ]', limit=7) == b'["abc"]'
    with pytest.raises(TooLong):
        compact(b'[ "abcd" ]', limit=7)


@pytest.mark.parametrize(
    ("data", "several"),
    [
        (b'{"output":[1,2,{"a":1,"b":2}]}', False),
        (b'{"output":1,"x":2}', True),
        (b'{"output":1,"output":2}', True),
    ],
)
def test_a_second_field_is_noticed(data: bytes, several: bool) -> None:
    for slice_ in (1, 4, 1000):
        document = CompactJson(limit=1000, depth=10)
        for start in range(0, len(data), slice_):
            document.feed(data[start : start + slice_])
        document.finish()
        assert document.several is several


def test_a_number_of_the_longest_kind_goes_on_in_the_next_slice_and_a_longer_one_is_refused() -> None:
    longest = b"0." + b"1" * (LONGEST_TOKEN - 2)
    assert compact(b"[" + longest + b"]", slice_=LONGEST_TOKEN + 1) == b"[" + longest + b"]"
    with pytest.raises(InvalidJson, match="more than 16384 characters"):
        compact(b"[" + longest + b"1]", slice_=LONGEST_TOKEN + 2)
