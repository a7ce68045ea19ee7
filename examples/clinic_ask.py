"""Asks a served chest X-ray model with Triton's client: images as they are, or drifted.

python clinic_ask.py ARCHIVE.npz grpc HOST:PORT [--drifted]
python clinic_ask.py ARCHIVE.npz png FILE
python clinic_ask.py ARCHIVE.npz alarms http://HOST:PORT [--wait SECONDS]

The last ends with 0 if there is an alarm, with 3 if records were compared and there is none, and
with another code if neither is known.
"""

from __future__ import annotations

import argparse
import sys
import time

import httpx
import numpy as np

AT_ONCE = 32
MODEL = "chest"  # chest.onnx
NO_ALARM = 3


def ask(archive: str, address: str, *, drifted: bool) -> None:
    """Ask for all images of the validation part, and say how many answers were right."""
    import tritonclient.grpc as triton

    with np.load(archive) as data:
        images, labels = data["val_images"], data["val_labels"][:, 0]
    if drifted:
        images = 255 - images
    seen = ((images[:, None] / 255 - 0.5) / 0.5).astype(np.float32)  # as in training
    client = triton.InferenceServerClient(address)
    answers = []
    for first in range(0, len(seen), AT_ONCE):
        some = seen[first : first + AT_ONCE]
        given = triton.InferInput("inputs", list(some.shape), "FP32")
        given.set_data_from_numpy(some)
        answers.append(client.infer(MODEL, [given]).as_numpy("outputs"))
    found = np.concatenate(answers)
    finding = found[:, 1] - found[:, 0] if found.shape[1] == 2 else found[:, 0]
    ill, well = finding[labels == 1], finding[labels == 0]
    auc = (ill[:, None] > well[None]).mean() + (ill[:, None] == well[None]).mean() / 2
    print(f"{len(found)} {'drifted ' * drifted}images, {len(found)} answers, AUC {auc:.3f}")


def png(archive: str, path: str) -> None:
    """Write one image of the test part as a picture."""
    from PIL import Image

    with np.load(archive) as data:
        Image.fromarray(data["test_images"][0]).save(path)


def alarms(address: str, wait: float) -> int:
    """Print the alarms of the service's metrics: 0 if there are any, `NO_ALARM` if there is none.

    Counting is beside the answers: it looks until there is an alarm, or nothing has moved for a
    tenth of the seconds that it may wait.
    """
    end, before, since = time.monotonic() + wait, [""], time.monotonic()
    while True:
        lines = httpx.get(f"{address}/metrics").raise_for_status().text.splitlines()
        raised = [x for x in lines if x.startswith("fedward_watch_alarm{") and x.endswith(" 1.0")]
        records = [x for x in lines if x.startswith("fedward_watch_records{")]
        compared = any(float(x.rsplit(" ", 1)[1]) > 0 for x in records)
        if raised:
            print("\n".join(raised))
            return 0
        if records != before:
            before, since = records, time.monotonic()
        if compared and time.monotonic() - since >= wait / 10:
            print("no alarm")
            return NO_ALARM
        if time.monotonic() >= end:
            raise SystemExit("the service has compared no records, or is still busy")
        time.sleep(wait / 100)


def main() -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive")
    parser.add_argument("what", choices=["grpc", "png", "alarms"])
    parser.add_argument("where")
    parser.add_argument("--drifted", action="store_true")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds, of alarms")
    options = parser.parse_args()
    if options.what == "alarms":
        return alarms(options.where, options.wait)
    if options.what == "png":
        png(options.archive, options.where)
    else:
        ask(options.archive, options.where, drifted=options.drifted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
