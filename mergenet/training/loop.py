"""The loop: what happens on one tick. It never asks which experiment it is in."""

from mergenet.training.graph import Graph


def advance(graph: Graph) -> None:
    """One tick.

    A transfer stands between two optimizer steps: all of one turn read before any writes, so that both directions
    see the same moment; then every learner learns for itself, teachers before students; then each adapter whose
    span ends here learns from where training has moved what it wrote.
    """
    tick = graph.done
    for turn in graph.turns:
        due = [edge for edge in turn if edge.due(tick)]
        for edge in due:
            edge.read(tick)
        for edge in due:
            edge.write(tick)
    for step in graph.steps:
        step.step(tick)
    for edge in graph.edges.values():
        edge.learn(tick)
    graph.done = tick + 1
