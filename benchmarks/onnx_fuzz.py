"""Mutated ONNX files through the reader: each is taken or refused with an OnnxError.

    python -m benchmarks.onnx_fuzz --count 10000 --seed 0

All of them are read in one child process, which may hold 4 times the file and 500 MB more than it
holds after its imports, and whose files opened for writing are counted. Ends with 1 where a file
gave another error, where the child died, or where anything was written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

EXTRA_BYTES = 500 * 10**6
TIMES = 4
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**62, -(2**63), 2**63 - 1)


def bases() -> list[bytes]:
    """Small files of many kinds."""
    return [make().SerializeToString() for make in (_convolutions, _recurrent, _shapes, _function)]


def _model(nodes: list[Any], weights: dict[str, Any], sizes: list[Any], opset: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _noise(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _convolutions() -> ModelProto:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"]),
        node("Clip", ["n", "low", "high"], ["c"]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("Resize", ["p", "", "scales"], ["r"], mode="nearest"),
        node("GlobalAveragePool", ["r"], ["q"]),
        node("Flatten", ["q"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    ones = np.ones(4, np.float32)
    weights = {
        "w1": _noise(4, 3, 3, 3), "g": ones, "b": ones, "m": ones, "v": ones,
        "low": np.float32(0), "high": np.float32(6), "scales": np.array([1, 1, 2, 2], np.float32),
        "w2": _noise(5, 4), "b2": _noise(5),
    }  # fmt: skip
    return _model(nodes, weights, ["N", 3, 16, 16], 17)


def _recurrent() -> ModelProto:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["h"], hidden_size=4),
        helper.make_node("Squeeze", ["h", "axes"], ["s"]),
        helper.make_node("MatMul", ["s", "head"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["y"]),
    ]
    weights = {"w": _noise(1, 16, 3), "r": _noise(1, 16, 4), "b": _noise(1, 32),
               "axes": np.array([1]), "head": _noise(4, 2), "bias": _noise(2)}  # fmt: skip
    return _model(nodes, weights, ["N", 7, 3], 13)


def _shapes() -> ModelProto:
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["r"]),
        node("Transpose", ["r"], ["u"], perm=[0, 2, 1]),
        node("Split", ["u"], ["a", "b"], axis=1, num_outputs=2),
        node("Expand", ["a", "wide"], ["e"]),
        node("Mul", ["e", "b"], ["m"]),
        node("Pad", ["m", "pads"], ["d"]),
        node("Tile", ["d", "times"], ["i"]),
        node("ReduceSum", ["i", "last"], ["y"]),
    ]
    weights = {
        "zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1, 4]),
        "wide": np.array([1, 1, 6]), "pads": np.array([0, 0, 1, 0, 0, 1]),
        "times": np.array([1, 2, 1]), "last": np.array([2]),
    }  # fmt: skip
    return _model(nodes, weights, [1, 24], 18)


def _function() -> ModelProto:
    nodes = [
        helper.make_node("block", ["x"], ["h"], domain="own"),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    proto = _model(nodes, {"w": _noise(6, 2)}, ["N", 6], 18)
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Softmax", ["b"], ["c"])]
    imports = [helper.make_opsetid("", 18)]
    proto.functions.append(helper.make_function("own", "block", ["a"], ["c"], body, imports))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def mutated(data: bytes, source: random.Random, *, whole: bool = False) -> bytes:
    """The file with one to four changes, of its bytes or of what it says; `whole`: of that alone,
    so that it can still be parsed."""
    ways = (_saying,) if whole else (_flip, _cut, _repeat, _saying, _saying, _saying)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        data = source.choice(ways)(data, source)
    return data


def _flip(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 8)):
        if changed:
            changed[source.randrange(len(changed))] = source.randrange(256)
    return bytes(changed)


def _cut(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    return data[:start] + data[start + source.randint(0, 64) :]


def _repeat(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    part = data[start : start + source.randint(1, 64)]
    return data[:start] + part * source.randint(2, 20) + data[start + len(part) :]


def _saying(data: bytes, source: random.Random) -> bytes:
    """One number, name or type anywhere in the message, replaced."""
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # damaged already
        return _flip(data, source)
    changes = list(_changes(proto))
    if changes:
        source.choice(changes)(source)
    return bytes(proto.SerializeToString())


Change = Callable[[random.Random], None]


def _changes(message: Any, depth: int = 0) -> Iterator[Change]:
    for field, value in message.ListFields():
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        for place, each in enumerate(list(value)[:40] if repeated else [value]):
            if hasattr(each, "ListFields"):
                if depth < 12:
                    yield from _changes(each, depth + 1)
            elif isinstance(each, int) and not isinstance(each, bool):
                yield _setter(message, field.name, place if repeated else None, NUMBERS)
            elif isinstance(each, str):
                words = ("", "x", "y", "w", "Conv", "Reshape", "Loop", "../../x", "\u2603")
                yield _setter(message, field.name, place if repeated else None, words)


def _setter(message: Any, name: str, place: int | None, choices: tuple[Any, ...]) -> Change:
    def change(source: random.Random) -> None:
        value = source.choice(choices)
        try:
            if place is None:
                setattr(message, name, value)
            else:
                getattr(message, name)[place] = value
        except (ValueError, TypeError, IndexError):
            pass  # the field is too narrow for it

    return change


def outcome(data: bytes) -> str:
    """`taken`, `refused`, or the name of an error that must not be."""
    from search.errors import OnnxError
    from search.onnx_in import from_onnx

    try:
        from_onnx(data)
    except OnnxError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def child(count: int, seed: int) -> None:
    """Reads `count` files under a limit of memory; prints the outcomes as JSON."""
    files = bases()
    outcome(files[0])  # imports
    written: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    most = _data_bytes() + TIMES * max(map(len, files)) + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    for number in range(count):
        source = random.Random(f"{seed}/{number}")
        said = outcome(mutated(source.choice(files), source))[:200]
        found[said] += 1
        first.setdefault(said, number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer = {"outcomes": found, "first": first, "written": written, "peak_mb": round(peak)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _data_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.count, given.seed)
        return
    arguments = ["--child", "--count", str(given.count), "--seed", str(given.seed)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.onnx_fuzz", *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        left = [str(path) for path in Path(folder).iterdir()]
    if done.returncode:
        sys.exit(f"the child ended with status {done.returncode}: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    others = answer["outcomes"].keys() - {"taken", "refused"}
    if others or answer["written"] or left:
        sys.exit(f"all must be taken or refused, and nothing written, but: {sorted(others)}")


if __name__ == "__main__":
    main()
