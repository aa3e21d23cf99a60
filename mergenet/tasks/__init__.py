"""Tasks by name: what a learner's model is trained to do, as losses and metrics on a batch."""

from typing import Annotated

from mergenet.config import Choice
from mergenet.tasks.classification import Classification

Task = Annotated[Classification, Choice(classification=Classification)]
