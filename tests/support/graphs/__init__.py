"""The graph zoo: one small graph for each thing that LangGraph can do, for comparing the two ways of running it."""

from tests.support.graphs.case import Case
from tests.support.graphs.zoo import ZOO

__all__ = ["ZOO", "Case"]
