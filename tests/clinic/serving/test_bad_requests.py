"""Whatever is sent gets a 4xx with one sentence, nothing of it is logged, and the next is answered.

The fixture `web` asks a good question after every test.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.client.data.dicom_made import made, ramp
from tests.clinic.serving.conftest import Service
from tests.clinic.serving.small_models import PIXELS, expected

INFER = "/v2/models/picture/infer"
SECRET = "Mustermann-1948"


def refused(answer: httpx.Response, *statuses: int) -> str:
    assert answer.status_code in (statuses or (400,)), answer.text
    sentence: str = answer.json()["error"]
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def body(**changes: object) -> dict[str, Any]:
    tensor = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 1], **changes}
    return {"inputs": [tensor]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        b'{"inputs": []}',
        *(
            json.dumps(body(**changes)).encode()
            for changes in (
                {"name": "x"},
                {"datatype": "FP64"},
                {"shape": [3]},
                {"shape": [1, -3]},
                {"shape": [-1, -3]},
                {"shape": [2**62, 2**62]},
                {"shape": [1, "3"]},
                {"shape": [1] * 100},
                {"shape": [0, 3], "data": []},
                {"data": [1, 0]},
                {"data": [[1, 0], [1]]},
                {"data": ["1", "0", "1"]},
                {"data": [None, 0, 1]},
                {"data": [True, False, True]},
                {"data": [{}, 0, 1]},
                {"data": [10**400, 0, 1]},
                {"data": None},
                {"parameters": {"binary_data_size": 12}},
                {"parameters": {"binary_data_size": -1}, "data": None},
                {"parameters": 3},
            )
        ),
        *(
            json.dumps(body()).replace("[1, 0", f"[{n}, 0").encode()
            for n in ("NaN", "1e999", "1e39")
        ),
        json.dumps({**body(), "outputs": [{"name": "none"}]}).encode(),
        *(json.dumps({**body(), "id": "x" * n}).encode() for n in (257, 10_000)),
        json.dumps({"inputs": body()["inputs"] * 2}).encode(),
    ],
)
def test_an_inference_request_that_is_none(web: httpx.Client, content: bytes) -> None:
    refused(web.post("/v2/models/rows/infer", content=content))


def test_an_id_is_as_long_over_grpc_as_over_rest(web: httpx.Client, service: Service) -> None:
    given = triton.InferInput("inputs", [1, 3], "FP32")
    given.set_data_from_numpy(np.array([[1, 0, 1]], np.float32))
    client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
    longest = "ä" * 256
    answer = web.post("/v2/models/rows/infer", json={**body(), "id": longest})
    assert answer.json()["id"] == longest
    assert client.infer("rows", [given], request_id=longest).get_response().id == longest
    for letters in (257, 1 << 20):
        with pytest.raises(InferenceServerException, match="longer than 256 letters") as found:
            client.infer("rows", [given], request_id="ä" * letters)
        assert found.value.status() == "StatusCode.INVALID_ARGUMENT"
    client.close()


@pytest.mark.parametrize("length", ["", "-1", "x", "9" * 30, "99999", "²", "2"])
def test_a_length_of_the_header_that_is_none(web: httpx.Client, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode()}
    refused(web.post(INFER, content=b'{"inputs": []}', headers=headers))


def test_compressed_and_large_requests_are_not_taken(web: httpx.Client) -> None:
    bomb = zlib.compress(bytes(50 << 20))
    refused(web.post(INFER, content=bomb, headers={"Content-Encoding": "deflate"}), 415)
    refused(web.post(INFER, content=bytes(5 << 20)), 413)

    def in_pieces() -> Any:  # noqa: ANN401
        for _ in range(80):
            yield bytes(1 << 16)

    refused(web.post(INFER, content=in_pieces()), 413)


def test_a_form_that_grows_too_large(web: httpx.Client) -> None:
    def in_pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'
        for _ in range(80):
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(web.post("/predict", content=in_pieces(), headers=headers), 413)


@pytest.mark.parametrize("path", ["/nothing", "/v2/models/none", "/v2/models/rows/versions/7"])
def test_what_is_not_here(web: httpx.Client, path: str) -> None:
    refused(web.get(path), 404)


def test_another_method(web: httpx.Client) -> None:
    answer = web.delete("/v2/models/rows")
    refused(answer, 405)
    assert answer.headers["allow"] == "GET"


def upload(
    web: httpx.Client, name: str, content: bytes, model: str = "picture", **headers: str
) -> httpx.Response:
    form: dict[str, Any] = {"files": {"files": (name, content)}, "data": {"model": model}}
    return web.post("/predict", **form, headers=headers)


def png(size: int = PIXELS) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(size * size, dtype=np.uint8).reshape(size, size)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def png_bomb() -> bytes:
    """A picture of 20,000 times 20,000 black pixels in 400 kB."""
    side = 20_000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    squeezer, rows = zlib.compressobj(9), b""
    for _ in range(200):
        rows += squeezer.compress(bytes(100 * (side + 1)))
    rows += squeezer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def npz_bomb() -> bytes:
    """An array of 2.9 GB of zeros, in 3 MB: more than the process that reads may have."""
    head = io.BytesIO()
    numbers = 180 << 22
    shape = (numbers // PIXELS**2, 1, PIXELS, PIXELS)
    told = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, told)
    zeros, name = bytes(1 << 24), b"images.npy"
    squeezer = zlib.compressobj(9, wbits=-15)
    packed = squeezer.compress(head.getvalue()) + squeezer.flush(zlib.Z_FULL_FLUSH)
    packed += 180 * (squeezer.compress(zeros) + squeezer.flush(zlib.Z_FULL_FLUSH))
    packed += squeezer.flush()  # each part can stand anywhere after such a flush
    crc = zlib.crc32(head.getvalue())
    for _ in range(180):
        crc = zlib.crc32(zeros, crc)
    sizes = (crc, len(packed), len(head.getvalue()) + 4 * numbers, len(name))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, *sizes, 0) + name + packed
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, *sizes, *[0] * 6) + name
    return local + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)


def dicom() -> bytes:
    file = io.BytesIO()
    made(ramp(PIXELS, PIXELS), PatientName=SECRET).save_as(file, enforce_file_format=True)
    return file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    f"{SECRET}.dcm": lambda: bytes(128) + b"DICM" + bytes(40),
    f"{SECRET}-cut.dcm": lambda: dicom()[:-100],
    f"{SECRET}-head.dcm": lambda: dicom()[:300],
    f"{SECRET}.png": png_bomb,
    f"{SECRET}-half.png": lambda: png()[:45],
    f"{SECRET}-larger.png": lambda: png(13),
    f"{SECRET}-empty.png": lambda: b"",
    f"{SECRET}.npz": npz_bomb,
    f"{SECRET}.nii.gz": lambda: zlib.compress(bytes(100 << 20), wbits=31),
    f"{SECRET}.exe": lambda: b"MZ",
    "..": png,
    f"{SECRET}{'x' * 300}.png": png,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload(web: httpx.Client, service: Service, name: str) -> None:
    refused(upload(web, name, HOSTILE[name]()), 400, 413)
    assert upload(web, "good.dcm", dicom()).status_code == 200
    assert SECRET not in service.log()


@pytest.mark.parametrize(
    "content", [b"", b"age\n1\n", b"age,sex\nx,m\n", b"age,sex\nnan,m\n", b"\0"]
)
def test_a_table_that_is_none(web: httpx.Client, content: bytes) -> None:
    refused(upload(web, "rows.csv", content, "rows"))


def test_a_form_that_is_none(web: httpx.Client) -> None:
    refused(web.post("/predict", data={"model": "rows"}))
    refused(web.post("/predict", content=b"--x", headers={"Content-Type": "multipart/form-data"}))
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(web.post("/predict", content=b"--x\r\nContent", headers=broken))
    refused(web.post("/predict", files={"files": ("a.csv", b"")}))  # which model?
    refused(upload(web, "a.csv", b"", "none"), 404)
    refused(web.post("/predict", files=[("files", ("a", b"")), ("files", ("a", b""))]))


def test_a_page_of_another_site_is_not_answered(web: httpx.Client, service: Service) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1", "http://localhost:1"):
        refused(web.post("/v2/models/rows/infer", json=body(), headers={"Origin": origin}), 403)
        refused(upload(web, "a.csv", b"age,sex\n65,m\n", "rows", Origin=origin), 403)
    own = {"Origin": f"http://127.0.0.1:{service.port}"}
    assert web.post("/v2/models/rows/infer", json=body(), headers=own).status_code == 200


def test_another_host_name_is_a_page_of_somebody_elses(web: httpx.Client) -> None:
    refused(web.get("/v2", headers={"Host": "evil.example"}), 421)
    assert web.get("/v2", headers={"Host": "localhost:9"}).status_code == 200


def test_uploads_are_answered_and_leave_no_trace(web: httpx.Client, service: Service) -> None:
    rows = f"age,sex,name\n65,m,{SECRET}\n40,f,{SECRET}\n".encode()
    found = upload(web, f"{SECRET}.csv", rows, "rows").json()
    first, second = found["records"]
    assert first["name"] == f"{SECRET}.csv, record 1"
    assert first["values"]["ill"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert (first["called"], second["called"]) == (["ill"], ["healthy"])
    refused(upload(web, f"{SECRET}.csv", rows.replace(b"65", SECRET.encode()), "rows"))
    web.get(f"/{SECRET}?name={SECRET}")
    web.get(f"/v2/models/{SECRET}")
    log = service.log()
    assert "/predict 200" in log
    assert SECRET not in log


def test_a_picture_is_seen_as_in_training_and_explained(web: httpx.Client) -> None:
    answer = web.post(
        "/predict", files={"files": ("a.png", png())}, data={"model": "picture", "explain": "true"}
    ).json()
    seen = np.arange(PIXELS * PIXELS, dtype=np.uint8).reshape(1, 1, PIXELS, PIXELS) / 127.5 - 1
    healthy, ill = np.exp(expected(seen.astype(np.float32)))[0]
    (record,) = answer["records"]
    assert record["values"]["ill"] == pytest.approx(ill / (healthy + ill), abs=1e-4)
    assert answer["explanation"]["picture"].startswith("data:image/png;base64,iVBORw0KGgo")


def test_a_recording_and_its_header_belong_together(web: httpx.Client) -> None:
    samples = np.random.default_rng(0).integers(-2000, 2000, (40, 2)).astype("<i2")
    head = "r1 2 100 40\n" + "".join(f"r1.dat 16 1000/mV 16 0 0 0 0 {name}\n" for name in "ab")
    files = [("files", ("r1.hea", head.encode())), ("files", ("r1.dat", samples.tobytes()))]
    answer = web.post("/predict", files=files, data={"model": "signals"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    (record,) = answer.json()["records"]
    # Twenty weights of one for each class: they cannot be told apart.
    assert record["values"]["ill"] == pytest.approx(0.5)
    refused(upload(web, "r1.hea", head.encode(), "signals"))


def test_metrics_count_and_say_no_name(web: httpx.Client) -> None:
    upload(web, f"{SECRET}.csv", b"age,sex\n65,m\n", "rows")
    web.get(f"/v2/models/{SECRET}")
    text = web.get("/metrics").text
    assert 'fedward_serving_requests_total{endpoint="/predict",status="200"}' in text
    assert 'fedward_serving_batch_rows_count{model="rows"}' in text
    assert SECRET not in text
