"""Sweeps in Python, for notebooks and scripts; nothing depends on the working directory.

from pipeline.api import Checkout

checkout = Checkout("/path/to/the/checkout")
sweep = checkout["fashion"]
sweep.trials()                      # a DataFrame, a row each
sweep.figure("history")             # a matplotlib Figure
sweep.model().reconstruct(images)   # arrays; sweep.model().module is the torch module
checkout.compare("fashion", "mnist")
"""

from pipeline.api.checkout import Checkout
from pipeline.api.comparison import Comparison
from pipeline.api.sweep import Sweep

__all__ = ["Checkout", "Comparison", "Sweep"]
