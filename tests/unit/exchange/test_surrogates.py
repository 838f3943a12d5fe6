import json

from hypothesis import given
from hypothesis import strategies as st

from fxgrad.exchange.surrogates import joined, parted

AWKWARD = st.text(st.sampled_from("\ud83d\udbff\ude00\udfff\0a🔥"))


@given(AWKWARD | st.text(st.characters()))
def test_every_string_survives_json(text):
    assert joined(json.loads(json.dumps(parted(text)))) == text


@given(st.text())
def test_text_without_surrogates_is_written_as_it_is(text):
    assert parted(text) == text


def test_json_alone_does_not_tell_two_surrogates_from_the_character_they_stand_for():
    assert json.loads(json.dumps("\ud83d\ude00")) == "😀"
