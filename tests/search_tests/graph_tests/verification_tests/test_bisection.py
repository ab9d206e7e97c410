"""Bisection: what passes together is kept, and the reason of the rest is known."""

from __future__ import annotations

from collections.abc import Sequence

from search.graph.exported.deadline import LATE
from search.graph.verification.bisection import Bisection, family
from search.graph.verification.trial_result import TrialResult


def test_what_passes_together_is_kept() -> None:
    tried: list[tuple[str, ...]] = []

    def trial(names: Sequence[str]) -> TrialResult:
        tried.append(tuple(names))
        if "c" in names:
            return TrialResult("c is wrong")
        return TrialResult("a and h clash" if {"a", "h"} <= set(names) else None)

    found = Bisection().bisect(list("abcdefgh"), trial)
    assert found.passed == ["a", "b", "d"]
    assert found.reasons["c"] == "unverified: c is wrong"
    assert found.reasons["h"] == "unverified: beside a, a and h clash"
    assert found.has_failed
    assert len(tried) < 12


def test_after_so_many_trials_what_failed_together_is_refused_together() -> None:
    tried: list[tuple[str, ...]] = []

    def trial(names: Sequence[str]) -> TrialResult:
        tried.append(tuple(names))
        return TrialResult("wrong" if {"c", "g"} & set(names) else None)

    bisection = Bisection(most_trials=3)
    found = bisection.bisect(list("abcdefgh"), trial)
    assert found.passed == ["a", "b"]
    assert tried == [tuple("abcdefgh"), tuple("abcd"), tuple("ab"), tuple("cd"), tuple("efgh")]
    assert set(found.reasons) == set("cdefgh")
    assert bisection.bisect(list("bc"), trial).passed == []  # the trials were counted


def test_the_result_is_of_the_trial_in_which_exactly_these_passed() -> None:
    scales = {"abcd": 0.1, "ab": 0.2, "a": 0.3, "b": 0.4, "cd": 0.5, "abc": 0.6}

    def trial(names: Sequence[str]) -> TrialResult:
        tried = "".join(names)
        return TrialResult(problems.get(tried), scale=scales[tried])

    problems = {"abcd": "clash"}
    first = Bisection().bisect(list("abcd"), trial)
    assert first.passed == ["a", "b"]
    assert first.result == TrialResult(scale=0.2)
    problems |= {"ab": "b is wrong", "b": "b is wrong"}
    scales["acd"] = 0.7
    second = Bisection().bisect(list("abcd"), trial)
    assert second.passed == ["a", "c", "d"]
    assert second.result == TrialResult(scale=0.7)
    problems["cd"] = problems["acd"] = LATE
    third = Bisection().bisect(list("abcd"), trial)
    assert third.passed == ["a"]
    assert third.result == TrialResult(scale=0.3)
    assert third.reasons == {"b": "unverified: b is wrong", "c": LATE, "d": LATE}


def test_what_the_time_leaves_open_is_no_failure() -> None:
    found = Bisection().bisect(["a", "b"], lambda names: TrialResult(LATE))
    assert (found.passed, found.result, found.has_failed) == ([], None, False)
    assert found.reasons == {"a": LATE, "b": LATE}


def test_a_family_is_tried_and_refused_together() -> None:
    tried: list[list[str]] = []

    def trial(names: Sequence[str]) -> TrialResult:
        tried.append(list(names))
        return TrialResult("wrong" if "layers.1.fc" in names else None)

    names = ["stem", "layers.0.fc", "layers.1.fc"]
    assert family("layers.0.fc") == family("layers.1.fc") == "layers.#.fc"
    found = Bisection(family).bisect(names, trial)
    assert found.passed == ["stem"]
    assert ["layers.1.fc"] not in tried
