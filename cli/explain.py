"""`fedward explain`: why a model says what it says of somebody's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedward.cli.console import output
from fedward.cli.given_file import content_of
from fedward.cli.options import Models, OwnModel, OwnThreshold


def explain(
    model: Annotated[
        Path,
        typer.Argument(help="Folder of a finished run, or an exported .onnx.", show_default=False),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(help="Files of one picture, recording, text or table.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The new picture, PNG.", show_default=False)],
    target: Annotated[
        str | None, typer.Option(help="Class or finding to explain; the likeliest by default.")
    ] = None,
    method: Annotated[
        Literal["occlusion", "grad-cam", "integrated-gradients"] | None,
        typer.Option(help="How; what suits the records by default."),
    ] = None,
    record: Annotated[
        int, typer.Option(min=1, help="Which record, where the files hold several.")
    ] = 1,
    models: Models = None,
    own: OwnModel = None,
    threshold: OwnThreshold = None,
) -> None:
    """Show what in a record makes the model say what it says, as a picture over the record.

    Orange adds to what is explained, purple takes away. Pictures are explained by occlusion or
    Grad-CAM; signals, texts and tables by integrated gradients; exported models by occlusion. The
    picture shows the record: treat it as the patient's.
    """
    from fedward.clinic.answers import answers
    from fedward.clinic.asked_model import read_asked_model
    from fedward.clinic.explaining import explain as explained
    from fedward.clinic.explanation_picture import picture_of
    from fedward.clinic.new_file import refuse_place, write_new
    from fedward.clinic.unlabelled import read_unlabelled
    from fedward.privacy.whole_file import OWNERS
    from fedward.study.errors import OptionError

    refuse_place(out)
    asked = read_asked_model(model, models, own=own, threshold=threshold)
    contents = {str(file): content_of(file) for file in files}
    found = read_unlabelled(contents, asked.study, asked.scaling)
    if record > len(found.names):
        raise OptionError(f"--record {record}", todo=f"the files hold {len(found.names)}")
    one = found.inputs[record - 1 : record]
    outputs = asked.network(one)
    (answer,) = answers(outputs, one, asked.study.task, threshold=asked.threshold)
    says = ", ".join(f"{name} {value:.3g}" for name, value in answer.values.items())
    explanation = explained(asked, one, target, method)
    picture = picture_of(explanation, one, asked.study.data, f"The model says: {says}")
    write_new(out, picture, mode=OWNERS)
    output.print(f"{found.names[record - 1]}: {says}")
    output.print(f"explained: {explanation.target}, by {explanation.method}   picture: {out}")
