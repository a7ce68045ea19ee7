"""TensorBoard: a file of events in a folder, which `tensorboard --logdir FOLDER` shows."""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from fedward.server.tracked_values import Point
from fedward.server.tracking import About, Ending, TrackerAway


class TensorBoard:
    """A folder with a folder for each run.

    Args:
        folder: The one that TensorBoard is given.
    """

    def __init__(self, folder: Path) -> None:
        self.label = f"TensorBoard's folder {folder}"
        self._folder = folder
        self._path: Path | None = None

    def begin(self, about: About) -> None:
        """Make the run's folder and a file in it; of a run that is taken up, one more file."""
        folder = self._folder / about.name
        # TensorBoard reads the files of a run by name: a later one must sort last.
        second, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{second:010d}.{rest:09d}.fedward.{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _away(folder, error) from None
        self._path = folder / name
        source = SourceMetadata(writer="fedward")
        first = Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)
        settings = hparams_pb(dict(about.settings), trial_id=about.name)
        self._append([first, _event(settings), *_texts({**about.settings, **about.tags})])

    def points(self, points: Sequence[Point]) -> None:
        """Scalars."""
        self._append(
            Event(
                wall_time=each.at,
                step=each.step,
                summary=Summary(value=[Summary.Value(tag=each.name, simple_value=each.value)]),
            )
            for each in points
        )

    def tags(self, tags: Mapping[str, str]) -> None:
        """Texts."""
        self._append(_texts(tags))

    def end(self, how: Ending) -> None:
        """How the run ended, as a text."""
        self._append(_texts({"ended": how}))

    def _append(self, events: Iterator[Event] | Sequence[Event]) -> None:
        """All of the events, or none: half a record would hide all that follow."""
        assert self._path is not None, "begin comes first"  # noqa: S101
        content = io.BytesIO()
        writer = RecordWriter(content)
        for event in events:
            writer.write(event.SerializeToString())
        try:
            with self._path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    _write_all(file, content.getvalue())
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise _away(self._path, error) from None


def _write_all(file: io.FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _event(summary: Summary) -> Event:
    return Event(wall_time=time.time(), step=0, summary=summary)


def _texts(texts: Mapping[str, str]) -> Iterator[Event]:
    for name, text in texts.items():
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        value = Summary.Value(
            tag=f"about/{name}",
            metadata=SummaryMetadata(plugin_data=plugin),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
        )
        yield _event(Summary(value=[value]))


def _away(path: Path, error: OSError) -> TrackerAway:
    return TrackerAway(f"cannot be written ({error.strerror})", where=str(path))
