"""A load on `fedward serve` by Triton's clients, beside onnxruntime called directly.

Every client asks one record after the other and compares each answer with onnxruntime's own. The
benchmark fails if an answer is lost or wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fedward.clinic.provenance import KEY, Provenance
from fedward.study.study import parse_study
from fedward.study.version import VERSION

RECORDS, SIDE = 64, 64
TOLERANCE = 1e-4
PROCESSES = 2
"""Of clients: threads of one process would wait for each other."""
_START_SECONDS = 120.0


class Told(NamedTuple):
    """What clients met: answers, requests without one, wrong answers, seconds of each answer."""

    answered: int
    lost: int
    wrong: int
    seconds: list[float]


def make_model(path: Path) -> None:
    """A small convolutional network over pictures of 64 x 64, as an export writes it."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = {"a": (16, 1, 3, 3), "b": (32, 16, 3, 3), "c": (32, 2)}
    weights = [
        numpy_helper.from_array((random.normal(size=shape) / 4).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["inputs", "a"], ["x1"], strides=[2, 2]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "b"], ["x3"], strides=[2, 2]),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("GlobalAveragePool", ["x4"], ["x5"]),
        helper.make_node("Flatten", ["x5"], ["x6"]),
        helper.make_node("MatMul", ["x6", "c"], ["outputs"]),
    ]
    given = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ("batch", 1, SIDE, SIDE))
    answer = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ("batch", 2))
    graph = helper.make_graph(nodes, "load", [given], [answer], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    study = parse_study(
        {
            "study": {"name": "load"},
            "task": {"kind": "binary", "classes": ["no", "yes"]},
            "model": {"name": "small-cnn"},
            "data": {"kind": "images", "shape": [1, SIDE, SIDE]},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )
    said = Provenance(
        study=study.model_dump(mode="json", exclude_none=True),
        digest=study.digest(),
        threshold=0.5,
        classes=study.task.classes,
        version=VERSION,
    )
    helper.set_model_props(model, {KEY: said.document()})
    path.write_bytes(model.SerializeToString())


def session_of(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def records() -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    return random.normal(size=(RECORDS, 1, SIDE, SIDE)).astype(np.float32)


def ask_until(
    ask: Callable[[NDArray[np.float32]], NDArray[Any]],
    right: NDArray[Any],
    until: float,
    first: int,
) -> Told:
    """One client: its own order of the records, until a time."""
    told, inputs = Told(0, 0, 0, []), records()
    answered = lost = wrong = 0
    for turn in itertools.count(first):
        if time.time() >= until:
            return told._replace(answered=answered, lost=lost, wrong=wrong)
        place = turn * 7 % RECORDS
        started = time.perf_counter()
        try:
            found = ask(inputs[place : place + 1])
        except Exception as error:  # whichever way an answer is lost, it is counted
            lost += 1
            print(f"lost: {type(error).__name__}", file=sys.stderr)
            continue
        told.seconds.append(time.perf_counter() - started)
        answered += 1
        wrong += not (found.shape == (1, 2) and np.allclose(found, right[place], atol=TOLERANCE))
    raise AssertionError("endless")


def clients_of(
    kind: str, port: int, right: NDArray[Any], seconds: float, numbers: range, ready: Barrier
) -> list[Told]:
    """Clients of one process, each with a connection and a thread of its own."""
    import tritonclient.grpc
    import tritonclient.http

    module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind]
    ready.wait(_START_SECONDS)  # all processes have imported what they need
    until = time.time() + seconds

    def one(number: int) -> Told:
        client = module.InferenceServerClient(f"127.0.0.1:{port}")

        def ask(inputs: NDArray[np.float32]) -> NDArray[Any]:
            given = module.InferInput("inputs", list(inputs.shape), "FP32")
            given.set_data_from_numpy(inputs)
            found: NDArray[Any] = client.infer("load", [given]).as_numpy("outputs")
            return found

        try:
            return ask_until(ask, right, until, number)
        finally:
            client.close()

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def over_network(kind: str, port: int, right: NDArray[Any], seconds: float, clients: int) -> Told:
    parts = [range(start, clients, PROCESSES) for start in range(min(PROCESSES, clients))]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as shared, ProcessPoolExecutor(len(parts), mp_context=context) as pool:
        ready = shared.Barrier(len(parts))
        asked = [pool.submit(clients_of, kind, port, right, seconds, part, ready) for part in parts]
        return together([told for each in asked for told in each.result()])


def directly(path: Path, right: NDArray[Any], seconds: float, clients: int) -> Told:
    """As many threads, one session, no network and no service."""
    session = session_of(path)
    until = time.time() + seconds

    def ask(inputs: NDArray[np.float32]) -> NDArray[Any]:
        (found,) = session.run(None, {"inputs": inputs})
        return np.asarray(found)

    with ThreadPoolExecutor(clients) as pool:
        each = pool.map(lambda number: ask_until(ask, right, until, number), range(clients))
        return together(list(each))


def together(each: list[Told]) -> Told:
    return Told(
        sum(t.answered for t in each),
        sum(t.lost for t in each),
        sum(t.wrong for t in each),
        [s for t in each for s in t.seconds],
    )


def row(name: str, told: Told, seconds: float) -> dict[str, Any]:
    p50, p99 = np.percentile(told.seconds or [float("nan")], [50, 99]) * 1000
    return {
        "way": name,
        "answers": told.answered,
        "lost": told.lost,
        "wrong": told.wrong,
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "a_second": round(told.answered / seconds, 1),
    }


def measured(seconds: float, clients: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "load.onnx"
        make_model(path)
        (whole,) = session_of(path).run(None, {"inputs": records()})
        right = np.asarray(whole)
        command = [str(Path(sys.executable).with_name("fedward")), "serve", str(path)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0", "--rate", "1000000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        watchdog = threading.Timer(3 * seconds + 300, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+); gRPC on .*:(\d+)$", process.stdout.readline().strip())
            assert found is not None, "the service did not start"
            rows = [
                row(
                    f"fedward, {kind}",
                    over_network(kind, int(port), right, seconds, clients),
                    seconds,
                )
                for kind, port in zip(("http", "grpc"), found.groups(), strict=True)
            ]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "the service did not stop in order"
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
        rows.append(
            row(f"onnxruntime, {clients} threads", directly(path, right, seconds, clients), seconds)
        )
        rows.append(
            row("onnxruntime, 1 thread", directly(path, right, seconds / 4, 1), seconds / 4)
        )
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny: its figures mean nothing")
    options = parser.parse_args()
    seconds, clients = (1.0, 4) if options.quick else (options.seconds, options.clients)
    rows = measured(seconds, clients)
    if options.json:
        print(json.dumps({"clients": clients, "seconds": seconds, "rows": rows}, indent=2))
    else:
        print(
            f"{'way':28}{'answers':>9}{'lost':>6}{'wrong':>7}{'p50 ms':>9}{'p99 ms':>9}{'a s':>9}"
        )
        for each in rows:
            name, *figures = each.values()
            widths = (9, 6, 7, 9, 9, 9)
            print(f"{name:28}" + "".join(f"{v:>{w}}" for v, w in zip(figures, widths, strict=True)))
    return int(any(each["lost"] or each["wrong"] or not each["answers"] for each in rows))


if __name__ == "__main__":
    sys.exit(main())
