"""Where a hospital's records are, and in which form: the table `data` of `hospital.toml`.

Each format has a reader of its own; `reading.py` knows which.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedward.client.data.any_source import AnySource
from fedward.study.any_data import Scalar
from fedward.study.frozen import Frozen
from fedward.study.messages import Part

MissingMark = str
DataName = Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]


class Join(Frozen):
    """Columns of another table, which are added to the rows by a key.

    Attributes:
        path: A CSV file; relative to `hospital.toml`.
        on: The column that says which row is meant: in both tables, once each in this one.
        delimiter: Between two values; a comma, or a tab in a `.tsv`, if left out.
        unmatched: What to do with a row that is not in this table: `refuse` or `drop` (counted and
            said).
    """

    path: str
    on: str
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    unmatched: Literal["refuse", "drop"] = "refuse"


class TabularSource(AnySource):
    """Rows with columns, in whatever file.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The file; relative to `hospital.toml`.
        join: Other tables whose columns are added.
        only: For a column, the values that say that a row is this hospital's; for several columns,
            all of them. Everything else in the file is another's.
    """

    name: DataName = "data"
    path: str
    join: tuple[Join, ...] = ()
    only: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )

    @property
    def joined(self) -> tuple[Join, ...]:
        """All tables whose columns are added."""
        return self.join


class CsvSource(TabularSource):
    """A table in a text file, also packed by gzip (`.gz`).

    Attributes:
        files: Where `path` is a folder: the file in it of each part. Rows are counted through all
            of them, in the order train, validation, test.
        columns: Names of the columns, for a file without a header line.
        delimiter: Between two values; a comma, or a tab in a `.tsv`, if left out.
        missing: What stands for a value that is not there, beside nothing at all.
    """

    format: Literal["csv"]
    files: Annotated[dict[Part, str], Field(min_length=1)] | None = None
    columns: tuple[str, ...] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    missing: tuple[MissingMark, ...] = ("?", "NA", "NaN", "nan")

    @model_validator(mode="after")
    def _parts_said_once(self) -> CsvSource:
        if self.files is not None and self.parts is not None:
            raise ValueError("parts or files, which says the parts too")
        return self


class NpzSource(AnySource):
    """Images in a NumPy archive with `<part>_images` and `<part>_labels`, or `images` and `labels`.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The file; relative to `hospital.toml`.
        patient: As everywhere; a key is that of the patients' names (`<part>_<key>`).
        rows: As everywhere; records are numbered in the order train, validation, test.
    """

    format: Literal["npz"]
    name: DataName = "data"
    path: str


class FolderSource(AnySource):
    """A folder of PNG or JPEG files: one sub-folder a class, or a table of labels.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The folder; relative to `hospital.toml`.
        labels: A CSV file in that folder with the columns `file`, `label` and, if wanted,
            `patient` and `part`.
        patient: As everywhere; a column is one of `labels`.
        rows: As everywhere; records are files in sorted order, or rows of `labels`.
    """

    format: Literal["folder"]
    name: DataName = "data"
    path: str
    labels: str | None = None

    @model_validator(mode="after")
    def _patients_are_listed(self) -> FolderSource:
        if self.named_by is not None and self.labels is None:
            raise ValueError("a table of labels, where the patient is a column")
        return self


class BundledSource(AnySource):
    """A data set that comes with an installed library, for demonstrations."""

    format: Literal["bundled"]
    name: Literal["breast-cancer"]
    patient: Literal["record"] | None = None


class ParquetSource(TabularSource):
    """A table in an Apache Parquet file.

    Attributes:
        path: The file, or a folder of such files; relative to `hospital.toml`.
    """

    format: Literal["parquet"]


class _Labelled(AnySource):
    """Files of which a table says the labels.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The folder; relative to `hospital.toml`.
        labels: A CSV file in that folder: the column `file`, the study's label columns and, if
            wanted, the patient's and `part`.
    """

    name: DataName = "data"
    path: str
    labels: str | None = None


class DicomSource(_Labelled):
    """A folder of DICOM files. A patient is the tag PatientID, unless `patient` says otherwise.

    Attributes:
        patient: As everywhere; a column of `labels`, or a DICOM keyword such as `PatientID`.
        frames: What to do with files of many frames: `refuse`, or each is a record (`each`), or
            they are the depth of a volume (`volume`).
    """

    format: Literal["dicom"]
    patient: str | None = "PatientID"
    frames: Literal["refuse", "each", "volume"] = "refuse"


class NiftiSource(_Labelled):
    """A folder of NIfTI files (`.nii`, `.nii.gz`) with a table of labels; masks are such files."""

    format: Literal["nifti"]


class WfdbSource(_Labelled):
    """A folder of WFDB records (PhysioNet's format), and their annotations.

    Attributes:
        annotations: Extension of the annotation files, such as `atr`.
        patients: A CSV file in the folder with the column `record` and the one that `patient`
            names, where no table of labels has it.
    """

    format: Literal["wfdb"]
    annotations: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,20}$")] | None = None
    patients: str | None = None


class EdfSource(_Labelled):
    """A folder of EDF, EDF+, BDF or BDF+ files.

    A table says the labels, or annotations in the files do.
    """

    format: Literal["edf"]


class SignalTableSource(_Labelled):
    """A folder of CSV files, a column a channel and a row a sample, with a table of labels.

    Attributes:
        rate: Samples a second.
    """

    format: Literal["signal-csv"]
    rate: Annotated[float, Field(gt=0)]


class SignalArchiveSource(AnySource):
    """Signals in a NumPy archive: arrays of (records, channels, samples) or (records, samples).

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The file; relative to `hospital.toml`.
        signals: Key of the signals.
        labels: Key of the labels; where the task has several columns, those are the keys.
        channels: What the channels are, in the archive's order.
        rate: Samples a second.
        patient: As everywhere; a key of the archive.
    """

    format: Literal["signal-npz"]
    name: DataName = "data"
    path: str
    signals: str = "signals"
    labels: str = "labels"
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0)]


class LinesSource(TabularSource):
    """Records, one a line: JSON Lines, also packed by gzip (`.gz`)."""

    format: Literal["jsonl"]


class FastaSource(TabularSource):
    """Sequences in a FASTA file, also packed by gzip (`.gz`).

    It has the columns `file`, the first word after `>`, and `sequence`, the letters.

    Attributes:
        labels: A CSV file with the column `file`, the study's label columns and, if wanted, the
            patient's and `part`; relative to `hospital.toml`. The same as a `join` on `file`.
    """

    format: Literal["fasta"]
    labels: str | None = None

    @property
    def joined(self) -> tuple[Join, ...]:
        """All tables whose columns are added."""
        labels = () if self.labels is None else (Join(path=self.labels, on="file"),)
        return (*labels, *self.join)


class ArffSource(TabularSource):
    """A table in an ARFF file."""

    format: Literal["arff"]


class FhirSource(AnySource):
    """FHIR R4: a folder of bundles (JSON, also gzipped), or NDJSON files of a bulk export.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: The file or folder; relative to `hospital.toml`.
        patient: Always the Patient resource.
    """

    format: Literal["fhir"]
    name: DataName = "data"
    path: str
    patient: Literal["Patient.id"] = "Patient.id"


class OmopSource(AnySource):
    """Tables of the OMOP common data model in a database.

    Attributes:
        name: What the data set is called in the privacy ledger.
        path: A SQLite file relative to `hospital.toml`, unless `url_file` is there.
        url_file: A file, readable by its owner only, that holds the database's address.
        patient: Always the person.
    """

    format: Literal["omop"]
    name: DataName = "data"
    path: str | None = None
    url_file: str | None = None
    patient: Literal["person_id"] = "person_id"

    @model_validator(mode="after")
    def _one_place(self) -> OmopSource:
        if (self.path is None) == (self.url_file is None):
            raise ValueError("exactly one of path and url_file")
        return self


class InstalledSource(AnySource):
    """Whatever a reader in an installed package reads.

    Attributes:
        reader: Name of its entry point in the group `fedward.readers`.
        name: What the data set is called in the privacy ledger.
        settings: For the reader.
    """

    format: Literal["installed"]
    reader: Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
    name: DataName = "data"
    settings: dict[str, Any] = Field(default_factory=dict)


Source = (
    CsvSource
    | NpzSource
    | FolderSource
    | BundledSource
    | ParquetSource
    | DicomSource
    | NiftiSource
    | WfdbSource
    | EdfSource
    | SignalTableSource
    | SignalArchiveSource
    | LinesSource
    | FastaSource
    | ArffSource
    | FhirSource
    | OmopSource
    | InstalledSource
)
