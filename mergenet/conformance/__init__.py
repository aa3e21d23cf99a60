"""Conformance suites: what an adapter or an encoding of your own must hold, as test classes to inherit.

    class TestMine(AdapterConformance):
        options = MyAdapter()

in a file of tests is all; pytest finds the rest. Nothing here imports pytest.
"""

from mergenet.conformance.adapter import AdapterConformance
from mergenet.conformance.encoding import EncodingConformance

__all__ = ["AdapterConformance", "EncodingConformance"]
