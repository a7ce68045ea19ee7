"""Images from a finished run's generator, and what may be said of the patients behind them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from fedward.models.gan import Gan
from fedward.models.registry import build, read_settled
from fedward.privacy.whole_file import keep_names, write_to_disk
from fedward.server.synthesis_privacy import Statement, statement_of
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study
from fedward.study.task import GenerationTask

MOST = 1_000_000
"""Images of one call, at most."""

_AT_ONCE = 256


def synthesize(run: Path, out: Path, *, count: int, seed: int) -> Statement:
    """Write images, a table of their classes if they have any, and the statement beside them.

    The folder is there with all of it, or not at all.

    Args:
        run: Folder of a finished run.
        out: The new folder.
        count: Of images, 1 to a million; classes in turn.
        seed: Of the codes that they are made from.

    Raises:
        OptionError: The run makes no images, or there is something in the new folder.
        DataError: The run's files cannot be read or do not belong together, or nothing can be
            written.
    """
    study, network = _finished(run)
    if not 1 <= count <= MOST:
        raise OptionError(f"{count} images", todo=f"ask for 1 to {MOST}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError("is not empty", todo="give another --out", where=str(out))
    statement = statement_of(study, run, count=count, seed=seed)
    aside = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        aside.mkdir(parents=True)
        _write(study, network, aside, count=count, seed=seed)
        write_to_disk(aside / "PRIVACY.md", statement.words().encode())
        write_to_disk(aside / "privacy.json", statement.document())
        keep_names(aside)
        os.replace(aside, out)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})",
            todo="free the disk, or give another --out",
            where=str(out),
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return statement


def images(network: Gan, *, count: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Images (channels, height, width) with the number of their class, classes in turn.

    Args:
        network: Of a finished run; its mean generator makes them.
        count: How many.
        seed: Of the codes.
    """
    network.eval()
    source, classes = torch.Generator().manual_seed(seed), network.codes.classes
    for start in range(0, count, _AT_ONCE):
        codes = torch.randn(min(_AT_ONCE, count - start), network.codes.code, generator=source)
        kinds = (start + torch.arange(len(codes))) % classes
        with torch.inference_mode():
            made = network.mean_generator(codes, kinds)
        pixels = (made * 0.5 + 0.5).mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
        yield from zip(pixels, kinds.tolist(), strict=True)


def _finished(run: Path) -> tuple[Study, Gan]:
    """The run's study, and its network with the final weights."""
    study = read_settled(run / "study.toml")
    if not isinstance(study.task, GenerationTask):
        raise OptionError(
            f"the run's task is {study.task.kind}",
            todo="give the folder of a run whose task is generation",
            where=str(run),
        )
    network, path = build(study, seed=0), run / "model.safetensors"
    if not isinstance(network, Gan):
        raise OptionError(f"model {study.model.name!r} makes no images", todo="see fedward models")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["fedward"])
            if about["digest"] != study.digest():
                raise ValueError("it is of another study than study.toml beside it")
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"is no finished model of this run ({' '.join(str(error).split())[:200]})",
            todo="give the folder of a run that is finished",
            where=str(path),
        ) from None
    return study, network


def _write(study: Study, network: Gan, folder: Path, *, count: int, seed: int) -> None:
    """PNG files, and `labels.csv` where images are of classes."""
    digits, classes, rows = max(5, len(str(count - 1))), study.task.classes, ["file,class"]
    for number, (pixels, kind) in enumerate(images(network, count=count, seed=seed)):
        name, content = f"{number:0{digits}}.png", BytesIO()
        shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
        Image.fromarray(shown).save(content, format="PNG")
        (folder / name).write_bytes(content.getvalue())
        rows.append(f"{name},{_cell(classes[kind])}" if classes else "")
    if classes:
        write_to_disk(folder / "labels.csv", ("\n".join(rows) + "\n").encode())


def _cell(text: str) -> str:
    """As CSV has it (RFC 4180)."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n\r') else text
