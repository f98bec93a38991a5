"""The reader of JSON, in full: that every body goes through it is shown once per route, in test_conventions."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.http.kept_json import KEPT, Path, lift
from service.http.request import decode_body
from service.http.strict_json import (
    DEPTH,
    ITEMS,
    SHORT,
    MalformedJSON,
    RefusedJSON,
    check,
    decode_any_text,
    is_quick,
)
from service.problems import Problem

LONG = b" " * SHORT
"""White space in front of a text that is to be read in the way of long ones."""
BOTH_WAYS = (b"", LONG)
"""What to put in front of a text: short ones and long ones are read in two ways, which must agree."""


def decode(text: bytes) -> Any:
    check(text)
    return json.loads(text)


@pytest.mark.parametrize(
    ("text", "quick"),
    [
        (b"[]," * 300, True),
        (b"[]," * 400, False),
        (b"1," * 8_000, True),
        (b"1," * 8_000 + b'"\\u00e9"', False),
        (b"\\u00e9" * 2_000, True),
        (b"1," * 8_200, False),
    ],
    ids=["short", "many lists", "many numbers", "and an escape", "a string of escapes", "long"],
)
def test_what_takes_long_for_its_length_is_known(text: bytes, quick: bool) -> None:
    assert is_quick(text) is quick


# What is no JSON

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \n",
    "half an object": b'{"title": ',
    "trailing comma": b'{"title": "x",}',
    "trailing comma in a list": b"[1,]",
    "trailing text": b'{"title": "x"} x',
    "two documents": b'{"title": "x"}{"title": "y"}',
    "no comma": b'{"a": 1 "b": 2}',
    "no colon": b'{"a" 1}',
    "a name that is no text": b"{1: 2}",
    "the wrong bracket": b'{"a": [1}',
    "single quotes": b"{'title': 'x'}",
    "a key twice, and more behind the end": b'{"a": 1, "a": 2} x',
    "a number beyond all bounds that is none": b"1e999-0",
    "a comment": b'{"title": "x" /* y */}',
    "NaN": b'{"title": NaN}',
    "Infinity": b'{"title": "x", "metadata": {"n": Infinity}}',
    "-Infinity": b'{"title": "x", "metadata": {"n": -Infinity}}',
    "True": b'{"title": True}',
    "leading zero": b'{"title": 01}',
    "leading plus": b'{"title": +1}',
    "a point without digits": b'{"title": 1.}',
    "hexadecimal": b'{"title": 0x1}',
    "digits of another script": '{"title": \u0661}'.encode(),
    "control character": b'{"title": "a\nb"}',
    "NUL as it is": b'{"title": "a\0b"}',
    "bad escape": b'{"title": "\\x41"}',
    "half an escape": b'{"title": "\\u00"}',
    "a string without an end": b'{"title": "x}',
    "invalid UTF-8": b'{"title": "\xff\xfe"}',
    "half a character in UTF-8": b'{"title": "\xc3"}',
    "a surrogate in UTF-8": b'{"title": "\xed\xa0\x80"}',
    "an overlong NUL": b'{"title": "\xc0\x80"}',
    "UTF-16": '{"title": "x"}'.encode("utf-16"),
    "white space that JSON doesn't know": '{"title":\u00a0"x"}'.encode(),
    "1000 lists deep": b"[" * 1000 + b"]" * 1000,
    "1000 objects deep": b'{"title":' * 1000 + b"1" + b"}" * 1000,
    "100000 deep": b"[" * 100_000,
    "metadata 1000 deep": b'{"title": "x", "metadata": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_json_is_malformed(text: bytes) -> None:
    for in_front in BOTH_WAYS:
        with pytest.raises(MalformedJSON):
            check(in_front + text)


def test_a_byte_order_mark_is_malformed() -> None:
    for text in (b'\xef\xbb\xbf{"title": "x"}', b'\xef\xbb\xbf{"title": "x"}' + LONG):
        with pytest.raises(MalformedJSON):
            check(text)


@pytest.mark.parametrize(
    "make", [lambda inner: f"[{inner}]", lambda inner: f'{{"a":{inner}}}'], ids=["lists", "objects"]
)
def test_a_hundred_levels_are_read_and_not_one_more(make: Callable[[str], str]) -> None:
    text = "1"
    for _ in range(DEPTH):
        text = make(text)
    for in_front in BOTH_WAYS:
        check(in_front + text.encode())
        with pytest.raises(MalformedJSON, match=f"nested more than {DEPTH} levels deep"):
            check(in_front + make(text).encode())


def test_brackets_in_strings_are_no_levels() -> None:
    for in_front in BOTH_WAYS:
        check(in_front + json.dumps(["[{" * 200, '\\"[' * 200]).encode())


# What is JSON, and refused all the same

TWICE, NUL, HALF = "is given more than once", "holds a NUL character", "holds half of a surrogate pair"
INFINITE = "holds a number that is not finite"
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "a key twice": (b'{"title": "x", "title": "y"}', "title", TWICE),
    "a key twice with the same value": (b'{"title": "x", "title": "x"}', "title", TWICE),
    "a key twice with others between": (b'{"a": 1, "b": 2, "a": 3}', "a", TWICE),
    "an empty key twice": (b'{"": 1, "": 2}', "", TWICE),
    "a key twice further in": (b'{"title": "x", "metadata": {"a": 1, "b": {"c": 1, "c": 2}}}', "metadata.b.c", TWICE),
    "a key twice in a list": (b'{"update": [{"id": 1}, {"id": 2, "id": 3}]}', "update[1].id", TWICE),
    "a key twice around an object with the same key": (b'{"a": {"a": 1}, "a": 2}', "a", TWICE),
    "a key twice, spelt differently": (b'{"title": "x", "\\u0074itle": "y"}', "title", TWICE),
    "a key twice, with an escape that needn't be": (b'{"a/b": 1, "a\\/b": 2}', "a/b", TWICE),
    "a long key twice": (b'{"' + b"k" * 300 + b'": 1, "' + b"k" * 300 + b'": 2}', "k" * 100, TWICE),
    "NUL": (b'"\\u0000"', "", NUL),
    "NUL in a field": (b'{"title": "a\\u0000b"}', "title", NUL),
    "NUL in a key": (b'{"a": {"\\u0000": 1}}', "a", NUL),
    "NUL in a list": (b'{"update": [{}, {"title": ["x", "\\u0000"]}]}', "update[1].title[1]", NUL),
    "half a pair": (b'{"title": "\\ud800"}', "title", HALF),
    "the other half": (b'{"title": "\\udc00"}', "title", HALF),
    "half a pair in upper case": (b'{"title": "\\uDBFF"}', "title", HALF),
    "half a pair before text": (b'{"title": "a\\ud800b"}', "title", HALF),
    "half a pair twice": (b'{"title": "\\ud800\\ud800"}', "title", HALF),
    "a pair the wrong way round": (b'{"title": "\\udc00\\ud800"}', "title", HALF),
    "half a pair and an escape": (b'{"title": "\\ud800\\\\udc00"}', "title", HALF),
    "half a pair in a key": (b'{"\\ud800": 1}', "", HALF),
    "half a pair in a key, twice": (b'{"\\ud800": 1, "\\ud800": 2}', "", HALF),
    "half a pair in a list": (b'[1, [2, "\\ud83d"]]', "[1][1]", HALF),
    "an exponent beyond a double": (b'{"metadata": {"n": 1e309}}', "metadata.n", INFINITE),
    "an exponent in upper case": (b'{"n": [0, -1E5000]}', "n[1]", INFINITE),
    "an integer beyond a double": (b'{"a": [{"n": 1' + b"0" * 309 + b"}]}", "a[0].n", INFINITE),
    "a negative integer beyond a double": (b'{"n": -' + b"9" * 400 + b"}", "n", INFINITE),
    "an integer beyond what int takes": (b'{"n": ' + b"9" * 5000 + b"}", "n", INFINITE),
    "a fraction beyond a double": (b"[" + b"9" * 400 + b".5]", "[0]", INFINITE),
    "a number alone": (b"1e400", "", INFINITE),
}


@pytest.mark.parametrize(("text", "field", "message"), REFUSED.values(), ids=REFUSED)
def test_what_two_readers_could_read_differently_is_refused_with_its_place(
    text: bytes, field: str, message: str
) -> None:
    for in_front in BOTH_WAYS:
        with pytest.raises(RefusedJSON) as refused:
            check(in_front + text)
        assert (refused.value.field, refused.value.message) == (field, message)


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b"true",
        b'""',
        b" \t\r\n[ ]\n",
        b"{}",
        b"-0",
        b"-0.0e-0",
        b"5e-324",
        b"1e-400",
        b"1.7976931348623157e308",
        b"-" + b"9" * 308,
        b"0." + b"9" * 5000,
        b'{"a": {"a": {"a": 1}}, "b": {"a": 2}}',
        b'[{"a": 1}, {"a": 2}]',
        b'{"a": 1, "A": 2, "\\u0061b": 3, "": 4}',
        b'["\\ud83c\\udf89", "\\uD83C\\uDF89", "\\\\ud800", "\\\\u0000", "\\\\\\\\ud800"]',
        b'["\\"", "\\\\", "\\b\\f\\n\\r\\t\\/", "a\\u0001b", "\x7f"]',
        '{"é": "🎉", "e\u0301": "\u2028\ufeff"}'.encode(),
        b'{"a:b": ":", "c\\"": "\\": 1, \\"c\\\\\\": 2"}',
    ],
)
def test_what_can_be_read_in_one_way_only_is_read(text: bytes) -> None:
    for in_front in BOTH_WAYS:
        check(in_front + text)
        assert decode(in_front + text) == json.loads(text)
        assert decode_any_text(in_front + text) == json.loads(text)


def test_a_long_list_of_a_field_is_refused_before_it_is_read() -> None:
    def lists(count: int, around: str = '{{"delete": [{}]}}') -> bytes:
        return LONG + around.format(",".join(["1"] * count)).encode()

    check(lists(ITEMS))
    with pytest.raises(RefusedJSON) as refused:
        check(lists(ITEMS + 1))
    assert (refused.value.field, refused.value.message) == ("delete", f"has more than {ITEMS} items")
    check(lists(ITEMS + 1, '{{"metadata": {{"a": [{}]}}}}'))  # only what the fields of the service take is limited


def test_the_longest_value_that_is_kept_as_it_is_sent_is_as_long_a_string_as_may_be() -> None:
    value = b'"' + b'\\"' * (KEPT // 2 - 1) + b'"'
    assert json.loads(lift(b'{"item": %b}' % value, frozenset({("item",)})))["item"].encode() == value
    written = json.dumps("\\" * KEPT)
    check(written.encode())
    with pytest.raises(RefusedJSON, match=r"a\[1\]: is too long a string"):
        check(b'{"a": [1, "\\n%b]}' % written[1:].encode())


class Kept(msgspec.Struct):
    kept_whole: ClassVar[Path] = ("inner", "value")

    inner: "Inner | None" = None
    value: Any = None


class Inner(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw()


WHOLE: dict[str, tuple[bytes, str]] = {
    "a string": (b'{"inner": {"value": "x"}}', '"x"'),
    "null": (b'{"inner": {"value": null}}', "null"),
    "what is refused elsewhere": (
        b'{"inner": {"value": [1e999, "\\u0000\\ud800", {"a": 1, "a": 2}] }}',
        '[1e999, "\\u0000\\ud800", {"a": 1, "a": 2}]',
    ),
    "a name written with an escape": (b'{"\\u0069nner": {"v\\u0061lue" : {"value": 1}}}', '{"value": 1}'),
    "a list of more items than a field has": (
        b'{"inner":{"value":[1%b]}}' % (b",1" * ITEMS),
        "[1" + ",1" * ITEMS + "]",
    ),
    "nothing": (b'{"inner": {}}', ""),
}


@pytest.mark.parametrize(("text", "value"), WHOLE.values(), ids=WHOLE)
def test_a_value_that_is_put_aside_comes_back_as_it_was_sent(text: bytes, value: str) -> None:
    text = text[:-1] + b', "value": 5}'  # of the same name, at another place
    for in_front in BOTH_WAYS:
        found = decode_body(in_front + text, Kept)
        assert (bytes(found.inner.value).decode(), found.value) == (value, 5)


def test_a_value_that_is_put_aside_may_be_as_long_as_the_text() -> None:
    value = b'"' + b'\\"' * (2 * KEPT) + b'"'
    assert decode_body(b'{"inner": {"value": %b}}' % value, Kept).inner.value == msgspec.Raw(value)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"inner": {"value": 1, "value": 2}}', "inner.value"),
        (b'{"inner": {"value": 1}, "inner": {"value": 2}}', "inner"),
        (b'{"inner": {"value": 1}, "value": 1e999}', "value"),
        (b'{"inner": {"value": 1}, "value": "\\u0000"}', "value"),
        (b'{"inner": ["value", {"value": 1}]}', "inner"),
        (b'[{"inner": {"value": 1}}]', "body"),
    ],
)
def test_around_a_value_that_is_put_aside_the_rules_are_the_same(text: bytes, field: str) -> None:
    for in_front in BOTH_WAYS:
        with pytest.raises(Problem) as refused:
            decode_body(in_front + text, Kept)
        assert (refused.value.code, refused.value.errors[0].field) == ("validation_failed", field)


@pytest.mark.parametrize("value", [b"", b"[1,]", b"NaN", b'"\xff"', b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1)])
def test_a_value_that_is_put_aside_is_json(value: bytes) -> None:
    for in_front in BOTH_WAYS:
        with pytest.raises(Problem) as refused:
            decode_body(in_front + b'{"inner": {"value": %b}}' % value, Kept)
        assert refused.value.code == "malformed_request"


def test_a_text_that_is_looked_at_later_may_hold_anything_but_what_is_ambiguous() -> None:
    assert decode_any_text(b'{"sub": "\\u0000\\ud800"}') == {"sub": "\0\ud800"}
    for text in (b'{"a": 1, "a": 2}', b'{"a": 1e400}'):
        with pytest.raises(RefusedJSON):
            decode_any_text(text)
    for text in (b'{"a": NaN}', b"\xff", b"", b"[" * 5000 + b"]" * 5000):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it, its caller refuses the same
            decode_any_text(text)


# Two ways, one answer

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=VALUES, is_ascii=st.booleans(), indent=st.none() | st.integers(0, 3))
def test_every_value_is_read_however_it_is_written(value: Any, is_ascii: bool, indent: int | None) -> None:
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent, separators=separators).encode()
    for in_front in BOTH_WAYS:
        assert decode(in_front + text) == value


def _objects(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if value and isinstance(value, dict) else []) + [
        found for item in inner for found in _objects(item)
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=VALUES, is_ascii=st.booleans(), spaced=st.booleans(), data=st.data())
def test_one_key_given_twice_is_refused_wherever_it_is(
    value: Any, is_ascii: bool, spaced: bool, data: st.DataObject
) -> None:
    objects = _objects(value)
    assume(objects)
    chosen = data.draw(st.sampled_from(objects))
    key = data.draw(st.sampled_from(sorted(chosen)))
    mark = "the same key once more"
    chosen[mark] = data.draw(VALUES)
    separators = (", ", " : ") if spaced else (",", ":")
    text = json.dumps(value, ensure_ascii=is_ascii, separators=separators)
    doubled = text.replace(json.dumps(mark), json.dumps(key, ensure_ascii=is_ascii)).encode()
    for in_front in BOTH_WAYS:
        with pytest.raises(RefusedJSON, match=TWICE) as refused:
            check(in_front + doubled)
        assert f".{refused.value.field}".endswith(f".{key}")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([*'{}[],:"\\ 0-1.eE', "null", '"a"', '"a":', "\\u00", "\\ud83d", "\\ude00", "\0", "é"]))
)
def test_a_short_and_a_long_text_are_taken_alike(parts: list[str]) -> None:
    """Whatever is put together from the pieces that JSON is made of."""
    text = "".join(parts).encode()

    def outcome(found: bytes) -> tuple[str, str]:
        try:
            check(found)
        except (MalformedJSON, RefusedJSON) as error:
            return type(error).__name__, getattr(error, "field", "")
        return "taken", ""

    assert outcome(text) == outcome(LONG + text)


# Time

LARGE: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "350 KB with its last key doubled": (
        350_000,
        lambda n: b"{" + b",".join(b'"key%d":1' % key for key in range(n // 12)) + b',"key%d":2}' % (n // 12 - 1),
    ),
    "1 MiB of []": (1 << 20, lambda n: b"[" + b"[]," * (n // 3) + b"[]]"),
    "4 MiB of integers": (4 << 20, lambda n: b'{"a":{"delete":[' + b"1," * (n // 2) + b"1]}}"),
    "1 MiB of escapes": (1 << 20, lambda n: b'"' + b"\\u0041" * (n // 6) + b'"'),
    "128 KiB of quotation marks": (1 << 17, lambda n: b"[" + b'"\\"",' * (n // 5) + b'""]'),
    "1 MiB of a key": (1 << 20, lambda n: b'{"' + b"\\" * (n // 2 * 2) + b'":1}'),
    "1 MiB of spaces where a colon could be": (
        1 << 20,
        lambda n: b"[" + (b'"a"' + b" " * 1000 + b",") * (n // 1004) + b"1]",
    ),
    "1 MiB of a string without an end": (1 << 20, lambda n: b'"' + b"\\a" * (n // 2)),
}
"""What takes long: so many bytes of it, and how they are made."""


@pytest.mark.parametrize(("size", "make"), LARGE.values(), ids=LARGE)
def test_twice_the_text_takes_twice_the_time(size: int, make: Callable[[int], bytes]) -> None:
    """A reader that goes back over what it has read takes four times as long, or never ends."""

    def seconds(text: bytes) -> float:
        began = time.thread_time()
        with contextlib.suppress(RefusedJSON, MalformedJSON):
            check(text)
        return time.thread_time() - began

    texts = make(size // 2), make(size)
    half, whole = map(seconds, texts)
    for _ in range(2):  # a busy machine may have slowed down one of them
        if whole >= min(3 * half + 0.1, size * 20e-6):
            half, whole = map(min, (half, whole), map(seconds, texts))
    assert whole < 3 * half + 0.1
    assert whole < size * 20e-6  # four times and more what it takes


# What a body's reader makes of it


class Item(msgspec.Struct, forbid_unknown_fields=True):
    title: str


class Body(msgspec.Struct, forbid_unknown_fields=True):
    title: str = ""
    update: list[Item] = []


def test_a_body_that_is_not_json_is_a_400() -> None:
    for name, text in MALFORMED.items():
        with pytest.raises(Problem) as refused:
            decode_body(text, Body)
        assert (refused.value.code, refused.value.members) == ("malformed_request", {}), name


INVALID: dict[str, tuple[bytes, str]] = {
    "a number": (b"5", "body"),
    "a text": (b'"x"', "body"),
    "null": (b"null", "body"),
    "true": (b"true", "body"),
    "a list": (b"[]", "body"),
    "a text of NUL": (b'"\\u0000"', "body"),
    "a field without a name": (b'{"": null}', "body"),
    "an unknown field": (b'{"no_such_field": 1}', "no_such_field"),
    "an unknown field with a long name": (b'{"' + b"x" * 100_000 + b'": 1}', "x" * 100),
    "an unknown field in a list": (b'{"update": [{"title": "x"}, {"title": "y", "z": 1}]}', "update[1].z"),
    "a name of half a surrogate pair": (b'{"\\ud800": 1}', "body"),
    "twice a name of half a surrogate pair": (b'{"\\ud800": 1, "\\ud800": 1}', "body"),
    "a name with NUL": (b'{"\\u0000": 1}', "body"),
    "a duplicate key": (b'{"title": "x", "title": "y"}', "title"),
    "a duplicate key further in": (b'{"update": [{"title": "x", "title": "y"}]}', "update[0].title"),
    "a duplicate key, spelt differently": (b'{"title": "x", "\\u0074itle": "y"}', "title"),
    "a field of another type": (b'{"title": 5}', "title"),
    "a field that is missing": (b'{"update": [{}]}', "update[0].title"),
}


@pytest.mark.parametrize(("text", "field"), INVALID.values(), ids=INVALID)
def test_json_that_is_no_such_body_is_a_422_that_names_the_field(text: bytes, field: str) -> None:
    with pytest.raises(Problem) as refused:
        decode_body(text, Body)
    assert refused.value.code == "validation_failed"
    (error,) = refused.value.errors
    assert error.field == field
    in_list = field.startswith("update[")
    assert ("list_name" in refused.value.members) == ("index" in refused.value.members) == in_list
