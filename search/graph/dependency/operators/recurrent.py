"""Recurrent layers: their inputs may lose units, their hidden sizes may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search.graph.dependency.labels import Effect, Labels, freeze, freeze_all, role, tie, total
from search.graph.dependency.op_call import OpCall, Outcome
from search.graph.dependency.operators.operator import Operands, Operator, SizedAxis, sized

HIDDEN = "it is the hidden size of a recurrent layer"


def recurrent(call: OpCall) -> Outcome:
    """x (…, I), weights (gates · H, I), (gates · H, H) and biases, layer by layer."""
    x, params = call["input"], list(call["params"])
    directions = 2 if call["bidirectional"] else 1
    per_layer = len(params) // (call["num_layers"] * directions)
    firsts = range(0, per_layer * directions, per_layer)
    effect = total(_reads(x, params[place]) for place in firsts)
    effect += total(_hidden(weight, place in firsts) for place, weight in enumerate(params))
    states = call.arguments.get("hx", ())
    listed = [states] if isinstance(states, Labels) else states
    effect += total(freeze_all(state, HIDDEN) for state in listed)
    return call.outputs, effect


def cell(call: OpCall) -> Outcome:
    """One step: x (N, I), states (N, H), weights (gates · H, I), (gates · H, H) and biases."""
    states = call["hx"]
    listed = [states] if isinstance(states, Labels) else list(states)
    held = [*listed, *(call.arguments.get(name) for name in ("w_hh", "b_ih", "b_hh"))]
    effect = _reads(call["input"], call["w_ih"]) + _hidden(call["w_ih"], True)
    effect += total(freeze_all(value, HIDDEN) for value in held if value is not None)
    return call.outputs, effect


def _reads(x: Labels, weight: Labels) -> Effect:
    return tie(x.axis(-1), weight.axis(1)) + role(weight.axis(1), weight, "consumer")


def _hidden(weight: Labels, first: bool) -> Effect:
    axes = weight.axes[:1] if first else weight.axes
    return total(freeze(axis, HIDDEN) for axis in axes)


def _macs(operands: Operands, out: Labels) -> Iterator[Sequence[SizedAxis]]:
    """Every matrix is used once per step."""
    steps = sized(operands["input" if "input" in operands else "data"])[:-1]
    for weight in operands["params"]:
        if isinstance(weight, Labels) and len(weight.shape) == 2:
            yield [*sized(weight), *steps]


OPERATORS = (
    Operator(("gru", "lstm"), propagate=recurrent, macs=_macs, training_flag=6),
    Operator(("rnn_relu", "rnn_tanh"), propagate=recurrent, macs=_macs),
    Operator(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), propagate=cell),
)
