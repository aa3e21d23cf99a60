"""Models of different architecture, task and modality teach each other through their weights.

One run lives in this package. It needs torch and never imports Ray, Optuna or MLflow: where a run
happens is the business of `cluster`, many runs that of `tune`.
"""

from importlib.metadata import version

__version__ = version("mergenet")
