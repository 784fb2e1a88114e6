"""Suggestions by distance, and several mistakes at once."""

from __future__ import annotations

import pytest

from paddleseg_segformer.errors import Mistakes, UserError, UserErrors, did_you_mean, mistakes_in

pytestmark = pytest.mark.check

OPTIMIZERS = ("Adam", "AdamW", "Momentum", "SGD")


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("Adamw", OPTIMIZERS, "AdamW"),  # another case is no typing error
        ("adamax", OPTIMIZERS, "Adam"),  # as far as AdamW, and before it in the alphabet
        ("iterz", ("iters", "ignore"), "iters"),
        ("StopAtNigth", ("StopAtNight", "StopAtNoon"), "StopAtNight"),  # letters changed places
        ("bach_size", ("batch_size", "base_size"), "batch_size"),
        ("Poly", ("PolynomialDecay", "StepDecay"), "PolynomialDecay"),  # the beginning of it
        ("los", ("lr", "loss"), "loss"),
        ("--itres", ("--iters", "--import"), "--iters"),
    ],
)
def test_closest_name_has_the_fewest_typing_errors(name, known, meant: str) -> None:
    assert did_you_mean(name, known) == f" Did you mean '{meant}'?"
    assert did_you_mean(name, (), known) == f" Did you mean '{meant}'?"


@pytest.mark.parametrize("name", ["B9", "x" * 100_000, "", 3])
def test_without_a_close_name_the_known_ones_are_listed_once(name) -> None:
    assert did_you_mean(name, ("B1", "B0", "B1"), ("other",)) == " Known: B0, B1."
    assert did_you_mean(name, ()) == ""


def refuse(message: str) -> None:
    raise UserError(message)


def test_mistakes_are_shown_at_once_each_in_a_line() -> None:
    inner = Mistakes()
    inner.add("b: two\nlines")
    inner.add("c")
    outer = Mistakes()
    with outer:
        refuse("a")
    with outer:
        inner.raise_all()
    with pytest.raises(KeyError), outer:
        raise KeyError("of the program")
    outer.add("a")  # found twice
    named = UserError("d")
    named.key = "model"
    outer.add(named)
    with pytest.raises(UserErrors) as caught, mistakes_in("x.yml"):
        outer.raise_all()
    assert str(caught.value).split("\n") == [
        "x.yml: 4 mistakes:", "  a", "  b: two lines", "  c", "  model: d",
    ]  # fmt: skip


def test_single_mistake_reads_as_it_is() -> None:
    mistakes, error = Mistakes(), UserError("a")
    mistakes.raise_all()
    mistakes.add(error)
    with pytest.raises(UserError) as caught:
        mistakes.raise_all()
    assert caught.value is error
    with pytest.raises(UserError, match="^x.yml: a$"), mistakes_in("x.yml"):
        mistakes.raise_all()
