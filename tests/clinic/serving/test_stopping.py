"""Tokens and certificates at a real service, its start, and its end."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

from tests.clinic.serving.conftest import Service, serving
from tests.clinic.serving.small_models import row_model

FEDWARD = str(Path(sys.executable).with_name("fedward"))
TOKEN = "0123456789abcdef" * 4
ASKED = {"inputs": [{"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 1]}]}


@pytest.mark.slow
def test_answers_in_flight_are_finished(tmp_path: Path) -> None:
    model = row_model(tmp_path / "rows.onnx")
    with serving([model], tmp_path / "log", "--delay", "1000") as service:
        answers: list[Any] = []

        def over_http() -> None:
            url = f"{service.url}/v2/models/rows/infer"
            answers.append(httpx.post(url, json=ASKED).json()["outputs"][0]["data"])

        def over_grpc() -> None:
            client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
            given = triton.InferInput("inputs", [1, 3], "FP32")
            given.set_data_from_numpy(np.array([[1, 0, 1]], np.float32))
            answers.append(client.infer("rows", [given]).as_numpy("outputs")[0].tolist())
            client.close()

        askers = [threading.Thread(target=each) for each in (over_http, over_grpc)]
        for asker in askers:
            asker.start()
        time.sleep(0.4)
        assert answers == []
        assert service.stop() == 0
        for asker in askers:
            asker.join(30)
        assert answers == [[0.0, 2.0], [0.0, 2.0]]
        with pytest.raises(httpx.ConnectError):
            httpx.get(service.url)
        assert "Traceback" not in service.log()


@pytest.mark.slow
def test_a_token_opens_and_nothing_else_does(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN, encoding="utf-8")
    model = row_model(tmp_path / "rows.onnx")
    options = ("--token-file", str(token), "--rate", "15", "--megabytes", "1")
    with serving([model], tmp_path / "log", *options) as service:
        url = f"{service.url}/v2/models/rows/infer"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.post(url, json=ASKED).status_code == 401
        assert httpx.get(f"{service.url}/metrics").status_code == 401
        assert httpx.get(f"{service.url}/openapi.json").status_code == 401
        assert httpx.post(url, json=ASKED, headers=bearer).status_code == 200
        for path in ("/", "/page.js", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(f"{service.url}{path}").status_code == 200
        client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match="token"):
            client.get_model_metadata("rows")
        given = triton.InferInput("inputs", [1 << 20, 3], "FP32")
        given.set_data_from_numpy(np.zeros((1 << 20, 3), np.float32))
        with pytest.raises(InferenceServerException, match="token"):  # and not: larger than ...
            client.infer("rows", [given])
        found = client.get_model_metadata("rows", headers={"authorization": f"Bearer {TOKEN}"})
        assert found.name == "rows"
        with httpx.Client(base_url=service.url) as web:
            statuses = {web.get("/v2/health/live").status_code for _ in range(100)}
        assert statuses == {200, 429}
        refused = 0
        for _ in range(100):
            try:
                client.is_server_live()
            except InferenceServerException as error:
                refused += "Too many requests" in str(error)
        assert 0 < refused < 100
        client.close()
        assert TOKEN not in service.log()


def certificate(folder: Path, name: str, by: Any = None) -> Any:  # noqa: ANN401
    """A certificate and its key, as NAME.crt and NAME.key; its own authority's if by nobody."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if by is None else by
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, form, plain)
    (folder / f"{name}.key").touch(0o600)
    (folder / f"{name}.key").write_bytes(pem)
    return subject, key


@pytest.mark.slow
def test_only_whom_the_authority_knows_is_answered(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "authority")
    certificate(tmp_path, "service", ours)
    certificate(tmp_path, "client", ours)
    certificate(tmp_path, "stranger", certificate(tmp_path, "another"))
    pairs = {
        "--certificate": "service.crt",
        "--key": "service.key",
        "--client-ca": "authority.crt",
    }
    options = [word for name, file in pairs.items() for word in (name, str(tmp_path / file))]
    model = row_model(tmp_path / "rows.onnx")
    with serving([model], tmp_path / "log", *options) as service:
        assert over_tls(service, tmp_path, "client") == 200
        assert over_tls_grpc(service, tmp_path, "client")
        for name in ("stranger", None):
            with pytest.raises(httpx.TransportError):
                over_tls(service, tmp_path, name)
            with pytest.raises(InferenceServerException):
                over_tls_grpc(service, tmp_path, name)
        with pytest.raises(httpx.TransportError):
            httpx.get(service.url)


def over_tls(service: Service, folder: Path, name: str | None) -> int:
    context = ssl.create_default_context(cafile=str(folder / "authority.crt"))
    if name is not None:
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    url = f"https://127.0.0.1:{service.port}/v2/models/rows/infer"
    return httpx.post(url, json=ASKED, verify=context).status_code


def over_tls_grpc(service: Service, folder: Path, name: str | None) -> bool:
    pair = (
        [None, None]
        if name is None
        else [(folder / f"{name}.{kind}").read_bytes() for kind in ("key", "crt")]
    )
    credentials = grpc.ssl_channel_credentials((folder / "authority.crt").read_bytes(), *pair)
    client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc_port}", creds=credentials)
    try:
        return bool(client.is_server_live())
    finally:
        client.close()


@pytest.mark.slow
def test_the_command_says_in_one_line_what_it_refuses(tmp_path: Path) -> None:
    model = row_model(tmp_path / "rows.onnx")
    found = subprocess.run(
        [FEDWARD, "serve", str(model), "--host", "0.0.0.0"],  # noqa: S104
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert "without a token" in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
