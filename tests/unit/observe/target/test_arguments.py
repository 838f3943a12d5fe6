from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxgrad.errors import UsageError
from fxgrad.observe.target.arguments import DTYPES, Input, TensorInput, make_arguments, parse_init, parse_input

# --init


def refused_init(text):
    with pytest.raises(UsageError) as caught:
        parse_init(text)
    return caught.value


def test_nothing_is_an_empty_argument_list():
    assert parse_init("") == ((), {})


def test_literals_of_every_kind_are_taken():
    assert parse_init("1, -2.5, 'a', None, True, (1, 2), [3], {'k': 4}, 1+2j").args == (
        (1, -2.5, "a", None, True, (1, 2), [3], {"k": 4}, 1 + 2j)
    )


def test_keywords_follow_positional_arguments():
    assert parse_init("1000, 1000, bias=False") == ((1000, 1000), {"bias": False})


def test_a_list_may_span_lines_and_end_in_a_comma():
    assert parse_init("1,\n2,\r\nbias=True,\n") == ((1, 2), {"bias": True})


def test_an_error_of_init_points_at_the_place_and_shows_the_grammar():
    assert str(refused_init("1000, hidden")) == (
        "bad --init: expected a literal here\n    1000, hidden\n          ^\n  allowed: a Python argument list of "
        "literals, such as 1000, 1000, bias=False\n  try: use a factory, file.py:build, for anything else, such as "
        "dtype=torch.float64"
    )


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("3, dtype=torch.float64", 9),
        ("__import__('os').system('true')", 0),
        ("é, 1", 0),
        ("'é', é", 5),
        ("x for x in y", 0),
        ("*[1]", 0),
        ("{[]: 1}", 0),
        ("1,\nlayers", 3),
    ],
)
def test_what_is_no_literal_is_pointed_at(text, column):
    shown = text.replace("\n", r"\n")
    column += shown != text
    assert refused_init(text).given == f"bad --init: expected a literal here\n    {shown}\n    {' ' * column}^"


@pytest.mark.parametrize("text", ["1)(2", "1) + (2", "f(1)(2", "1, 2)", "(1, 2", "1,,2", "a=1, 2", ",", "\0", "\ud800"])
def test_what_is_no_argument_list_is_refused(text):
    assert refused_init(text).given.startswith("bad --init: ")


def test_a_keyword_of_init_given_twice_is_refused():
    assert "each keyword once, and no **" in refused_init("a=1, a=2").given


def test_double_stars_are_refused():
    assert "each keyword once, and no **" in refused_init("**{'a': 1}").given


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 100_000 + "1", "[" * 150 + "]" * 150, "9" * 5000])
def test_a_text_that_exhausts_the_parser_is_refused_or_taken(text):
    with suppress(UsageError):
        parse_init(text)


@given(st.text(alphabet="f(1,2)=*x'\"#\\\n\r\f[]{}: -é", max_size=30))
def test_any_text_of_init_is_parsed_or_refused(text):
    with suppress(UsageError):
        parse_init(text)


@given(st.lists(st.one_of(st.integers(), st.text(), st.none(), st.booleans())), st.booleans())
def test_what_repr_writes_is_read_back(values, bias):
    text = ", ".join([*map(repr, values), f"bias={bias}"])
    assert parse_init(text) == (tuple(values), {"bias": bias})


# --input


def made(text):
    return make_arguments([parse_input(text)]).args[0]


def refused_input(text):
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    return caught.value


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_makes_a_tensor_of_it(name):
    tensor = made(f"{name}[2,3]")
    assert (tensor.dtype, tensor.shape) == (DTYPES[name], (2, 3))


def test_empty_brackets_make_a_scalar():
    assert made("f32[]").shape == ()


def test_a_size_may_be_zero():
    assert made("f32[0,3]").shape == (0, 3)


def test_a_trailing_comma_is_allowed():
    assert made("f32[9,]").shape == (9,)


def test_floats_vary():
    assert made("f32[50]").unique().numel() > 1


def test_integers_stay_below_the_bound_and_reach_it():
    assert made("i64[1000]:3").unique().tolist() == [0, 1, 2]


def test_integers_without_a_bound_are_zero_which_is_an_index_into_anything():
    assert made("i64[3]").tolist() == [0, 0, 0]


def test_bools_are_both():
    assert made("bool[100]").unique().tolist() == [False, True]


def test_the_largest_bound_of_a_small_integer_dtype_can_be_drawn():
    assert made("u8[10000]:256").max() == 255


def test_parentheses_make_a_tuple():
    hidden, cell = made("(f32[9,4],f32[9,5])")
    assert (hidden.shape, cell.shape) == ((9, 4), (9, 5))


def test_parentheses_around_one_tensor_make_a_tuple_of_one():
    assert isinstance(made("(f32[9])"), tuple)


def test_tuples_nest():
    assert [type(item) for item in made("(f32[1],(i64[1],()))")] == [torch.Tensor, tuple]


def test_a_name_makes_a_keyword():
    assert parse_input("mask=bool[2]") == Input("mask", TensorInput("bool", (2,)))


def test_a_keyword_may_be_called_like_a_dtype():
    assert parse_input("f32=f32[2]").name == "f32"


def test_spaces_mean_nothing():
    assert parse_input(" x = ( i64 [ 2 , 16 ] : 7 , f32 [ ] ) ") == parse_input("x=(i64[2,16]:7,f32[])")


def test_positional_and_keyword_inputs_mix_in_any_order():
    arguments = make_arguments([parse_input("mask=bool[2]"), parse_input("f32[3]")])
    assert (arguments.args[0].shape, list(arguments.kwargs)) == ((3,), ["mask"])


def test_a_keyword_of_input_given_twice_is_refused():
    with pytest.raises(UsageError, match="--input names x twice"):
        make_arguments([parse_input("x=f32[1]"), parse_input("x=f32[2]")])


def test_an_error_of_input_points_at_the_place_and_shows_the_grammar():
    assert str(refused_input("f32[9,1000")) == (
        "bad --input: expected a comma or ]\n    f32[9,1000\n              ^\n  allowed: [name=]dtype[size,...] "
        "such as f32[9,1000], f32[] (a scalar), i64[2,16]:30522 (values below), x=f32[3], or a tuple "
        "(f32[9,4],f32[9,4]); dtypes f16, f32, f64, bf16, i8, i16, i32, i64, u8, bool, c64, c128\n  try: --input "
        "'f32[9,1000]'"
    )


@pytest.mark.parametrize(
    ("text", "problem", "column"),
    [
        ("", "expected a dtype or (", 0),
        ("f32", "expected [; a scalar is f32[]", 3),
        ("f32(9)", "expected [; a scalar is f32[]", 3),
        ("f32[-1]", "expected a size or ]", 4),
        ("f32[,]", "expected a size or ]", 4),
        ("f32[9 8]", "expected a comma or ]", 6),
        ("f32[9,,]", "expected a size or ]", 6),
        ("-f32[9]", "expected a dtype or (", 0),
        ("f32[9]]", "expected nothing more", 6),
        ("f32[9] f32[9]", "expected nothing more", 7),
        ("(f32[9]", "expected a comma or )", 7),
        ("f32[9]!", "expected nothing more", 6),
        ("f32[9]:3", "f32 takes no colon", 6),
        ("bool[9]:2", "bool takes no colon", 7),
        ("i64[9]:", "expected a number after the colon", 7),
        ("i64[9]:0", "i64 takes 1 to 9223372036854775807 after the colon", 6),
        ("i8[9]:129", "i8 takes 1 to 128 after the colon", 5),
        ("f32[99999999999999999999]", "at most 9223372036854775807", 4),
        ("x=", "expected a dtype or (", 2),
        ("x=y=f32[1]", "no dtype y", 2),
        ("q[3]", "no dtype q", 0),
        ("f32[\u0663]", "expected a size or ]", 4),
        ("(" * 21 + "f32[1]" + ")" * 21, "at most 20 tuples deep", 20),
    ],
)
def test_what_does_not_fit_the_grammar_is_pointed_at(text, problem, column):
    assert refused_input(text).given == f"bad --input: {problem}\n    {text}\n    {' ' * column}^"


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [("float32[9]", "f32"), ("long[9]", "i64"), ("Half[9]", "f16"), ("torch[1]", "f32"), ("bf61[1]", "bf16")],
)
def test_an_unknown_dtype_gets_the_nearest(text, suggestion):
    assert refused_input(text).suggestion == suggestion


def test_the_caret_stands_right_under_escaped_text():
    assert refused_input("\n\x1bf32[9]").given.splitlines()[1:] == [r"    \n\x1bf32[9]", r"      ^"]


def test_a_tensor_that_memory_cannot_hold_is_a_usage_error():
    with pytest.raises(UsageError, match=r"cannot make f32\[4611686018427387904,4\]"):
        made("f32[4611686018427387904,4]")


@given(st.text(alphabet="f3264biu8ol[](),:= x1\n", max_size=30))
def test_any_text_of_input_is_parsed_or_refused(text):
    with suppress(UsageError):
        parse_input(text)
