"""What a private step costs beside a plain one: Fedward's engine, and Opacus in its modes.

A step here is everything up to the (clipped) gradient; noise, update and sampling are the same for
everybody and left out. K is the records of a patient: Opacus alone clips records, so with K = 4
only its hooks take part, with the sum over a patient's records that Fedward puts behind them.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from opacus.validators import ModuleValidator
from private_training_models import CASES, Case
from report import arguments, cores
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums
from fedward.privacy.precision import FLOAT32

BOUND = 1.0
Step = Callable[[], object]


@dataclass(frozen=True)
class Side:
    """Whose step is timed, and with how many records of a patient it works."""

    name: str
    make: Callable[[nn.Module, Tensor, Tensor, int], Step]
    most: int


def loss_of_each(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def plain(model: nn.Module, inputs: Tensor, labels: Tensor, _: int) -> Step:
    def step() -> None:
        model.zero_grad()
        loss_of_each(model(inputs), labels).mean().backward()

    return step


def sums(kind: type[ClippedSums]) -> Callable[[nn.Module, Tensor, Tensor, int], Step]:
    def make(model: nn.Module, inputs: Tensor, labels: Tensor, k: int) -> Step:
        if kind is HookedSums:
            model = ModuleValidator.fix(model)
        counts = torch.full((len(inputs) // k,), k)
        source = kind(model, bound=BOUND, clipping="flat", precision=FLOAT32)
        return lambda: source.of(loss_of_each, inputs, labels, counts)

    return make


def hooks(functorch: bool) -> Callable[[nn.Module, Tensor, Tensor, int], Step]:
    def make(model: nn.Module, inputs: Tensor, labels: Tensor, _: int) -> Step:
        model = GradSampleModule(
            ModuleValidator.fix(model), loss_reduction="sum", force_functorch=functorch
        )
        optimizer = DPOptimizer(
            SGD(model.parameters(), lr=0.1), noise_multiplier=0.0, max_grad_norm=BOUND,
            expected_batch_size=None, loss_reduction="sum",
        )  # fmt: skip

        def step() -> None:
            optimizer.zero_grad()
            loss_of_each(model(inputs), labels).sum().backward()
            optimizer.clip_and_accumulate()

        return step

    return make


def ghost(model: nn.Module, inputs: Tensor, labels: Tensor, _: int) -> Step:
    model = GradSampleModuleFastGradientClipping(
        ModuleValidator.fix(model), max_grad_norm=BOUND, use_ghost_clipping=True,
        loss_reduction="sum",
    )  # fmt: skip
    optimizer = DPOptimizerFastGradientClipping(
        SGD(model.parameters(), lr=0.1), noise_multiplier=0.0, max_grad_norm=BOUND,
        expected_batch_size=None, loss_reduction="sum",
    )  # fmt: skip
    criterion = DPLossFastGradientClipping(
        model, optimizer, nn.CrossEntropyLoss(reduction="sum"), loss_reduction="sum"
    )

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()

    return step


SIDES = (
    Side("plain", plain, 4),
    Side("Fedward", sums(EngineSums), 4),
    Side("Opacus hooks", hooks(functorch=False), 1),
    Side("Opacus hooks, summed by patient", sums(HookedSums), 4),
    Side("Opacus ghost", ghost, 1),
    Side("Opacus functorch", hooks(functorch=True), 1),
)


OURS = ("plain", "Fedward")
_MOST = 4096
_SLOW = 3  # steps of a network that takes minutes
_FEW = 2  # patients of a step that only loads what libraries keep
_PEAKS = 3  # processes; what the system gives back to itself differs between them
CANNOT = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError)
"""What peers raise at a network or a loss that they do not take."""


def prepared(case: Case, side: Side, k: int, batch: int, device: str) -> Step:
    torch.manual_seed(0)
    model = case.build().to(device).train()
    inputs = case.records(batch).to(device)
    labels = torch.randint(0, case.classes, (batch,)).to(device)
    return side.make(copy.deepcopy(model), inputs, labels, k)


def seconds(step: Step, device: str) -> tuple[float, float]:
    """Processor and wall time of one step."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.process_time() - processor, time.perf_counter() - wall


def _peak(case: str, side: int, k: int, batch: int, device: str, found: Any) -> None:  # noqa: ANN401
    """Peak memory of two steps above what is there before, in MiB, from a process of its own.

    A small batch comes first: what libraries load and keep once, whatever the batch, counts as
    there before. It is 30 MiB with the vendor's LSTM, and 13 to 19 with Opacus' cells.
    """
    torch.set_num_threads(1)
    quiet()
    try:
        step = prepared(CASES[case], SIDES[side], k, _FEW * k, device)
        step()
        step = prepared(CASES[case], SIDES[side], k, batch, device)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            step()
            found.put((torch.cuda.max_memory_allocated() - before) / 2**20)
            return
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed does not count as there before
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        Path("/proc/self/clear_refs").write_text("5")
        step()
        step()
        lines = Path("/proc/self/status").read_text().splitlines()
        high = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        found.put(high / 2**10 - before / 2**20)
    except CANNOT:
        if SIDES[side].name in OURS:
            raise
        found.put(None)  # why is told where its time is taken


def peak(case: str, side: int, k: int, batch: int, device: str, times: int = 1) -> float | None:
    """The median of so many measurements; None where a side cannot."""
    found = [_peak_of_one(case, side, k, batch, device) for _ in range(times)]
    known = [one for one in found if one is not None]
    return statistics.median(known) if len(known) == times else None


def _peak_of_one(case: str, side: int, k: int, batch: int, device: str) -> float | None:
    context = multiprocessing.get_context("spawn" if device != "cpu" else "fork")
    found = context.Queue()
    process = context.Process(target=_peak, args=(case, side, k, batch, device, found))
    process.start()
    process.join()
    if process.exitcode and SIDES[side].name in OURS:
        raise RuntimeError(f"{case}, K = {k}: {SIDES[side].name} failed")
    return None if process.exitcode else found.get()


def largest_batch(case: str, side: int, k: int, device: str, limit: float) -> int | None:
    """The most records of a step whose peak stays below a limit, in MiB; None where it cannot.

    Nothing is limited: peaks are measured, each in a process of its own, for twice as many records
    until one is above, and then by halves, to an eighth. No more than `_MOST` records are tried.
    """

    def fits(patients: int) -> bool | None:
        found = peak(case, side, k, patients * k, device)
        return None if found is None else found <= limit

    if (one := fits(1)) is None:
        return None
    low, high = (1, 2) if one else (0, 1)
    while low and high * k <= _MOST and fits(high):
        low, high = high, 2 * high
    if not low or high * k > _MOST:
        return low * k
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * k


def quiet() -> None:
    warnings.filterwarnings("ignore")


def measured(name: str, k: int, batch: int, device: str, repeats: int) -> dict[str, Any]:
    """All sides of one row, in turns."""
    steps: dict[str, Step] = {}
    left_out: dict[str, str] = {}
    for side in SIDES:
        if k > side.most or (k == 1 and "summed" in side.name):
            continue
        try:
            step = prepared(CASES[name], side, k, batch, device)
            step()
            steps[side.name] = step
        except CANNOT as error:
            if side.name in OURS:  # a peer may not take a network; we may not fail at one unseen
                raise
            left_out[side.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in steps}
    for number in range(repeats):
        for side in list(steps) if number % 2 == 0 else list(reversed(steps)):
            times[side].append(seconds(steps[side], device))
    place = 0 if device == "cpu" else 1
    base = statistics.median(t[place] for t in times["plain"])
    return {
        "network": name,
        "k": k,
        "device": device,
        "batch": batch,
        "times_plain": {
            side: {
                "median": statistics.median(t[place] for t in all_of_it) / base,
                "least": min(t[place] for t in all_of_it) / base,
                "most": max(t[place] for t in all_of_it) / base,
                "processor_ms": 1e3 * statistics.median(t[0] for t in all_of_it),
                "wall_ms": 1e3 * statistics.median(t[1] for t in all_of_it),
            }
            for side, all_of_it in times.items()
        },
        "left_out": left_out,
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("network", "K", "side", "x plain (least, most)", "processor ms", "wall ms")
    table.add_column("MiB")
    table.add_column("fits")
    for row in rows:
        for side, found in row["times_plain"].items():
            memory = row["memory_mib"].get(side)
            table.add_row(
                row["network"], str(row["k"]), side,
                f"{found['median']:.2f} ({found['least']:.2f}, {found['most']:.2f})",
                f"{found['processor_ms']:.1f}", f"{found['wall_ms']:.1f}",
                "-" if memory is None else f"{memory:.0f}",
                str(row["largest_batch"].get(side, "-")),
            )  # fmt: skip
        for side, why in row["left_out"].items():
            table.add_row(row["network"], str(row["k"]), side, f"left out: {why}", "", "", "", "")
    Console(width=150).print(table)
    steps = " or ".join(str(number) for number in sorted({row["repeats"] for row in rows}))
    print(f"medians of {steps} steps; {cores()} cores, 1 thread; torch {torch.__version__}")


def main() -> None:
    parser = arguments("A private step beside a plain one.")
    parser.add_argument("--only", help="networks whose names have this in them")
    parser.add_argument("--no-memory", action="store_true", help="time alone")
    parser.add_argument("--fits", type=float, help="also the largest batch in so many MiB")
    asked = parser.parse_args()
    quiet()
    repeats, times = asked.rounds or (2 if asked.quick else 9), 1 if asked.quick else _PEAKS
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    wanted = [name for name in CASES if (asked.only or "") in name]
    rows: list[dict[str, Any]] = []
    memory: dict[tuple[str, int, str], dict[str, float | None]] = {}
    fitting: dict[tuple[str, int, str], dict[str, int | None]] = {}
    plan = []
    for name in wanted:
        if CASES[name].slow and not asked.only:
            print(f"left out: {name} takes minutes; ask for it with --only", file=sys.stderr)
            continue
        if missing := CASES[name].missing:
            print(f"left out: {name} needs {missing}", file=sys.stderr)
            continue
        batch = min(8, CASES[name].batch) if asked.quick else CASES[name].batch
        plan += [(name, k, batch, device) for device in devices for k in (1, 4)]
    for name, k, batch, device in plan:  # first: a child must not inherit used memory
        sides = [
            n for n, s in enumerate(SIDES) if k <= s.most and not (k == 1 and "summed" in s.name)
        ]
        found = (
            {}
            if asked.no_memory
            else {SIDES[n].name: peak(name, n, k, batch, device, times) for n in sides}
        )
        memory[name, k, device] = found
        fitting[name, k, device] = (
            {}
            if asked.fits is None
            else {SIDES[n].name: largest_batch(name, n, k, device, asked.fits) for n in sides}
        )
    torch.set_num_threads(1)
    for name, k, batch, device in plan:
        few = min(repeats, _SLOW) if CASES[name].slow and not asked.rounds else repeats
        row = measured(name, k, batch, device, few)
        row["repeats"] = few
        row["memory_mib"] = memory[name, k, device]
        row["largest_batch"] = fitting[name, k, device]
        rows.append(row)
    if asked.json:
        print(
            json.dumps(
                {
                    "benchmark": "private_training",
                    "fits_mib": asked.fits,
                    "rows": rows,
                },
                indent=2,
            )
        )
    else:
        show(rows)


if __name__ == "__main__":
    main()
