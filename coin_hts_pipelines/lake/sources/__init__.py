"""Where candles come from: made up, files, later exchanges. Each is a `CandleSource`."""

from coin_hts_pipelines.lake.sources.base import CandleSource
from coin_hts_pipelines.lake.sources.files import FilesSource
from coin_hts_pipelines.lake.sources.sample import TEN_KRW_SYMBOLS, SampleSource
from coin_hts_pipelines.lake.sources.stored import StoredSource

__all__ = ["TEN_KRW_SYMBOLS", "CandleSource", "FilesSource", "SampleSource", "StoredSource"]
