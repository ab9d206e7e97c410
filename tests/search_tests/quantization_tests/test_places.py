"""Where values are rounded, on graphs written by hand."""

from __future__ import annotations

import pytest

from search.quantization.places import Op, places, segments


def _layer(name: str, value: str, made: str, *, rounds: bool = True) -> Op:
    return Op(made, (value,), "layer", name, rounds)


CHAIN = [
    _layer("a", "x", "va"),
    Op("ra", ("va",), "rectifier"),
    _layer("b", "ra", "vb"),
    Op("rb", ("vb",), "rectifier"),
    Op("mean", ("rb",), "other"),
    _layer("fc", "mean", "logits", rounds=False),
]
BLOCK = [
    _layer("stem", "x", "v0"),
    Op("r0", ("v0",), "rectifier"),
    _layer("a", "r0", "va"),
    Op("ra", ("va",), "rectifier"),
    _layer("b", "ra", "vb"),
    Op("sum", ("vb", "r0"), "join"),
    Op("r1", ("sum",), "rectifier"),
    _layer("next", "r1", "vn"),
]


def test_nothing_is_rounded_without_int8_layers() -> None:
    assert not places(CHAIN, ["logits"], []).keys


def test_all_layers_of_a_chain_round_behind_their_rectifiers() -> None:
    where = places(CHAIN, ["logits"], ["a", "b", "fc"])
    assert where.rounded == {"ra": "out:a", "rb": "out:b"}
    assert where.entering == {"x": "in:a", "mean": "in:fc"}
    assert where.rectified == {"out:a", "out:b"}
    assert where.int8 == {"va", "vb", "logits"}


def test_a_float_layer_between_int8_ones_reads_what_they_made() -> None:
    where = places(CHAIN, ["logits"], ["b"])
    assert where.entering == {"ra": "in:b"}
    assert where.rounded == {"rb": "out:b"}
    assert where.rectified == {"in:b", "out:b"}


def test_a_rectifier_that_others_read_past_stays_by_itself() -> None:
    ops = [_layer("a", "x", "va"), Op("ra", ("va",), "rectifier"), Op("y", ("va", "ra"), "other")]
    where = places(ops, ["y"], ["a"])
    assert where.rounded == {"va": "out:a"}
    assert not where.rectified


def test_an_addition_is_int8_where_both_sides_are_at_hand() -> None:
    inside = places(BLOCK, ["vn"], ["a", "b"])
    assert inside.entering == {"r0": "in:a"}
    assert inside.rounded == {"ra": "out:a", "vb": "out:b", "r1": "join:b"}
    assert "sum" in inside.int8
    outside = places(BLOCK, ["vn"], ["b"])  # the other side is float and nothing rounds it
    assert outside.rounded == {"vb": "out:b"}
    assert "sum" not in outside.int8


def test_a_value_that_is_returned_is_rounded_before_its_rectifier() -> None:
    ops = [_layer("a", "x", "va"), Op("ra", ("va",), "rectifier")]
    assert places(ops, ["va", "ra"], ["a"]).rounded == {"va": "out:a"}


def test_keys_tell_two_joins_behind_one_layer_apart() -> None:
    ops = [
        _layer("a", "x", "va"),
        _layer("b", "x", "vb"),
        Op("first", ("va", "vb"), "join"),
        Op("second", ("first", "va"), "join"),
    ]
    assert places(ops, ["second"], ["a", "b"]).rounded == {
        "va": "out:a",
        "vb": "out:b",
        "first": "join:b",
        "second": "join:b#2",
    }


def test_segments_are_residual_blocks_and_the_layers_between() -> None:
    assert segments(CHAIN) == [("a",), ("b",), ("fc",)]
    assert segments(BLOCK) == [("stem",), ("a", "b"), ("next",)]


@pytest.mark.parametrize("most", [1, 8])
def test_long_segments_are_cut_into_layers(most: int) -> None:
    wanted = [("stem",), ("a",), ("b",), ("next",)] if most == 1 else segments(BLOCK)
    assert segments(BLOCK, most=most) == wanted


def test_a_layer_that_is_called_twice_is_in_one_segment() -> None:
    ops = [_layer("a", "x", "v1"), _layer("a", "v1", "v2"), _layer("b", "v2", "v3")]
    assert segments(ops) == [("a",), ("b",)]
