"""Members that are there twice in JSON objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.http.json_members import RepeatedMember, check_members


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a":1,"a":1}', "a"),
        ('{"a":1,"b":2,"a":3}', "a"),
        ('{"a":{"b":1,"b":2}}', "b"),
        ('[{"c":1},{"b":[{"a":1,"a":2}]}]', "a"),
        ('{"a":1,"\\u0061":2}', "a"),
        ('{"":1,"":2}', ""),
        (' {"a" : 1 , "a" :2}\n', "a"),
        ('{"é":1,"\\u00e9":2}', "é"),
        ('{"x":"v",":":1,":":2}', ":"),
    ],
)
def test_repeated_members_are_found_at_any_depth(text: str, name: str) -> None:
    for raw in (text, text.encode()):
        with pytest.raises(RepeatedMember) as caught:
            check_members(raw)
        assert caught.value.name == name
        assert repr(name) in caught.value.detail


def test_numbers_of_any_length_are_no_matter() -> None:
    check_members("[" + "9" * 10_000 + "," + "1." + "0" * 10_000 + "]")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=5), st.data())
def test_a_member_more_is_found_wherever_it_is(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value)
    check_members(text)
    name = data.draw(st.sampled_from(sorted(value)))
    with pytest.raises(RepeatedMember):
        check_members(text[:-1] + f", {json.dumps(name)}: null}}")
