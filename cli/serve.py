"""`fedward serve`: an exported model answers programs and people."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import messages, output


def serve(
    context: typer.Context,
    *,
    models: Annotated[list[Path], typer.Argument(help="Exported models: ONNX files.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for HTTP; 0: any.")] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="Port for gRPC; 0: any; -1: no gRPC.")
    ] = 8001,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that every request must have.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="For TLS: the chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="For TLS: its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="For mutual TLS: who signs clients' certificates, PEM.")
    ] = None,
    megabytes: Annotated[int, typer.Option(min=1, max=1000, help="Most of a request.")] = 64,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Most requests a second from one address.")
    ] = 1000.0,
    batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Most records computed together.")
    ] = 32,
    delay: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds a record waits for others.")
    ] = 2.0,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of a computation.")] = 1,
    grace: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds for answers in flight at the end.")
    ] = 20.0,
    watch: Annotated[
        list[Path] | None,
        typer.Option(
            help="What a model was trained on (fedward reference); MODEL.reference.json is found."
        ),
    ] = None,
    watch_state: Annotated[
        Path | None,
        typer.Option(help="Folder for counts of what is seen; else `watched` by the reference."),
    ] = None,
    watch_window: Annotated[
        int, typer.Option(min=10, max=10**9, help="Records that drift is looked for in.")
    ] = 1000,
    keep_scores: Annotated[
        int, typer.Option(min=0, max=10**7, help="Most answers kept for labels that come later.")
    ] = 0,
    keep_days: Annotated[
        float, typer.Option(min=0.05, max=3650, help="Days for which an answer is kept.")
    ] = 30.0,
) -> None:
    """Serve exported models: the Open Inference Protocol (REST, gRPC), and a page for people.

    Without a token or mutual TLS it listens on this machine only. SIGTERM ends it once answers in
    flight are out. Its log has no name or value of an upload.

    With a reference it counts what its models see and say, and compares; see `fedward monitor`.
    """
    from fedward.cli.quiet import quiet_libraries
    from fedward.study.errors import MissingExtra, OptionError

    try:
        from fedward.clinic.serving.answering import Pace
        from fedward.clinic.serving.door import Limits
        from fedward.clinic.serving.served_model import opened
        from fedward.clinic.serving.service import Certificates, Listening, Ports
        from fedward.clinic.serving.service import serve as run
        from fedward.clinic.watching.begin import Wanted, begin, close
        from fedward.clinic.watching.gauges import WatchGauges
        from fedward.clinic.watching.kept_scores import Bounds
        from fedward.clinic.watching.watch import Model
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fedward"):
            raise
        raise MissingExtra(
            f"needs the package {error.name}", todo="pip install 'fedward[serve]'"
        ) from None

    if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
        raise OptionError("--certificate and --key, and --client-ca only with both")
    if not context.obj:
        quiet_libraries()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("fedward.serving").setLevel(logging.INFO)
    files = (
        None if certificate is None or key is None else Certificates(certificate, key, client_ca)
    )
    listening = Listening(
        host,
        port,
        None if grpc_port < 0 else grpc_port,
        files,
        token_file,
        Limits(megabytes << 20, rate),
        grace,
    )
    listening.token()  # before minutes are spent on models
    found = opened(models, threads=threads)
    if not listening.loopback and files is None:
        messages.print("warning: no TLS: the token and patients' files cross the network readable")

    def ready(ports: Ports) -> None:
        scheme = "http" if files is None else "https"
        shown = f"[{host}]" if ":" in host else host
        over = "" if ports.grpc is None else f"; gRPC on {shown}:{ports.grpc}"
        output.print(
            f"Serving {', '.join(found)} at {scheme}://{shown}:{ports.http}{over}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    keep = Bounds(keep_scores, keep_days) if keep_scores else None
    served = {
        path: Model(path.stem, each.study, each.scaling, each.said.threshold, each.said.weights)
        for path, each in zip(models, found.values(), strict=True)
    }
    watches = begin(served, Wanted(watch or (), watch_state, watch_window, keep))
    if watches:
        output.print(f"Watching {', '.join(watches)}", soft_wrap=True)
    gauges = (WatchGauges([*watches.values()]),) if watches else ()
    pace = Pace(batch, delay / 1000)
    left = grace
    try:
        left = run(found, listening, pace, ready=ready, watches=watches, collectors=gauges)
    finally:
        close(watches, left)
