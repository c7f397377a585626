"""Results on disk. Belongs here: how a result is written and read. Not here: how it is computed or found by SQL."""

from coin_hts_pipelines.results.manifest import Manifest
from coin_hts_pipelines.results.result_store import MANUAL, ResultStore, SavedResult, StoredResult, figures_of, rank

__all__ = ["MANUAL", "Manifest", "ResultStore", "SavedResult", "StoredResult", "figures_of", "rank"]
