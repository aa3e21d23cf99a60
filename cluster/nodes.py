"""The machines of a cluster, each asked the same."""

import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mergenet.config import InputError

Answer = TypeVar("Answer")

TRIES = 10
"""How often a worker tries to reach its driver, a second after the other."""


@dataclass(frozen=True)
class Node:
    """A machine that Ray has, by Ray's name for it and by people's."""

    identity: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


@dataclass(frozen=True)
class Failed:
    """What a node gave in place of an answer: why, in one line."""

    why: str

    def __str__(self) -> str:
        return self.why


Answers = Mapping[Node, Answer | Failed]
"""What each node said."""


def alive() -> list[Node]:
    """The nodes there are, in a stable order."""
    import ray

    there = [node for node in ray.nodes() if node["Alive"]]
    nodes = [Node(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"]) for node in there]
    return sorted(nodes, key=lambda node: (node.host, node.address, node.identity))


def queue_here() -> Any:
    """A queue that lives on the node of this process: on another it could be gone while this process is not."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def tell(queue: Any, news: Any) -> None:
    """Puts it into a queue of the driver's. A driver that has gone wants no more of the run.

    Raises:
        KeyboardInterrupt: it has.
    """
    from ray.exceptions import ActorUnavailableError, RayActorError

    for _ in range(TRIES):
        try:
            return queue.put(news)
        except ActorUnavailableError:  # the network was away for a moment
            time.sleep(1.0)
        except RayActorError:
            break
    raise KeyboardInterrupt


def ask(nodes: list[Node], question: Callable[..., Answer], *arguments: Any, seconds: float) -> Answers[Answer]:
    """What `question(*arguments)` returns on each of `nodes`, at once and within so many seconds.

    It takes no processor of Ray's, so that a cluster that is busy answers too. A node that raises, dies or says nothing
    gives a `Failed`.
    """
    return ask_each({node: arguments for node in nodes}, question, seconds=seconds)


def ask_each(
    arguments: Mapping[Node, tuple[Any, ...]], question: Callable[..., Answer], seconds: float
) -> Answers[Answer]:
    """The same with arguments of each node's own."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    references = {}
    for node, own in arguments.items():
        there = NodeAffinitySchedulingStrategy(node.identity, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(question)
        references[node] = task.remote(*own)
    done, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=seconds)
    return {
        node: _answer(reference) if reference in done else _given_up(reference, seconds)
        for node, reference in references.items()
    }


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except Exception as error:  # Ray raises what the node did, as the node's own kind
        return Failed(in_one_line(error))


def _given_up(reference: Any, seconds: float) -> Failed:
    import ray

    ray.cancel(reference, force=True)
    return Failed(f"no answer within {seconds:g} s")


def in_one_line(error: BaseException) -> str:
    """An error in one line; of one that a node raised, what it raised there without the way to it."""
    error = getattr(error, "cause", None) or error
    text = textwrap.shorten(str(error), 160, placeholder=" ...")
    if isinstance(error, InputError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
