"""Where candles and indicators are kept, and where candles come from. Not here: results, tasks, object stores."""

from coin_hts_pipelines.lake.atomic import locked, write_atomically
from coin_hts_pipelines.lake.candle_files import candles_digest, is_synthetic
from coin_hts_pipelines.lake.candle_store import CandleStore, MergeResult, YearWrite
from coin_hts_pipelines.lake.indicator_store import IndicatorStore
from coin_hts_pipelines.lake.inventory import InventoryRow

__all__ = [
    "CandleStore",
    "IndicatorStore",
    "InventoryRow",
    "MergeResult",
    "YearWrite",
    "candles_digest",
    "is_synthetic",
    "locked",
    "write_atomically",
]
