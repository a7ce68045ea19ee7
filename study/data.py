"""What data every hospital must offer: the part of the contract about records.

A hospital keeps its own files and says in its own `hospital.toml` where they are. The study says
what comes out of them: the features and their order, the label, and constants of scaling that are
public and common to all hospitals (a hospital's own mean would hide how hospitals differ).
"""

from __future__ import annotations

from fedward.study.image_data import ImageData
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.table_data import TableData
from fedward.study.token_data import SequenceData, TextData

Data = TableData | SeriesData | ImageData | SignalData | TextData | SequenceData
