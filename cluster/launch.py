"""An experiment on several workers of Ray Train, each the same `execute` as alone.

Ray starts the processes, joins them in a process group and starts them again when one dies; where they
go on from is the run's own newest checkpoint, so Ray's are not used.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from cluster.nodes import queue_here, tell
from cluster.session import check_fits, free, lacking, session
from cluster.trust import check_cluster
from mergenet.config import InputError
from mergenet.training import ranks
from mergenet.training.files import wait_until_free
from mergenet.training.place import TakenOver
from mergenet.training.record import Record
from mergenet.training.remote import Away
from mergenet.training.reporter import Reporter
from mergenet.training.run import Stopped, execute, record_end, unfinished
from mergenet.training.sizes import among
from mergenet.training.spec import RunSpec

MAX_FAILURES = 3
REPORT_EVERY_S = 0.25
SILENCE_S = 60.0
OUTCOMES: Mapping[str, type[Exception]] = {"taken over": TakenOver, "refused": InputError, "away": Away}
"""What a worker may find that is no failure of its process."""
BEGUN = "begun"
"""News of a worker that has a place."""


def launch(spec: RunSpec, sizes: Sequence[int], reporter: Reporter) -> None:
    """Trains `spec` on as many processes of Ray's as one of `sizes` says; returns when the run has finished.

    Args:
        sizes: how many there may be, ascending: of several the largest that there is room for, then and later.

    Raises:
        InputError: more workers than fit, a cluster that is not fit, or what the workers found wrong.
        RuntimeError: the run failed; its record says why.
    """
    check_fits(sizes[0], spec.device)
    reporter.say(f"starting {among(sizes)} worker{'' if sizes[-1] == 1 else 's'} on Ray")
    with session():
        check_cluster(spec.folder.parents[1], spec.data)
        if spec.remote is None:
            Record(spec.folder).close()  # refuses a folder that cannot be written, or that another process writes
        train_together(spec, sizes, reporter)


def train_together(spec: RunSpec, sizes: Sequence[int], reporter: Reporter) -> None:
    """The same inside a session, on a cluster that has been looked at."""
    try:
        # Ray wants a folder of its own; nothing of ours lies there, the run's checkpoints are in its record.
        with tempfile.TemporaryDirectory(prefix="mergenet-ray-", ignore_cleanup_errors=True) as storage:
            _fit(spec, sizes, reporter, storage)
    except BaseException as error:
        with suppress(InputError, Away):  # a worker that cannot be reached writes it still; what counts is `error`
            record_end(spec, unfinished(error))
        raise


def _fit(spec: RunSpec, sizes: Sequence[int], reporter: Reporter, storage: str) -> None:
    from ray.train import FailureConfig, LoggingConfig, RunConfig
    from ray.train.torch import TorchConfig

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    news = queue_here()
    gpu = spec.device == "cuda"
    trainer = _trainer(
        sizes,
        gpu,
        train_loop_per_worker=_work,
        train_loop_config={"spec": spec.as_plain(), "news": news},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name="train",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with _relayed(news, reporter, lambda begun: _missing(sizes[0], spec.device, begun)):
            result = trainer.fit()
    except SystemExit:  # what Ray makes of Ctrl-C and of a request to terminate
        raise KeyboardInterrupt from None
    finally:
        news.shutdown()
    _raise_refused(result.return_value)


def _missing(workers: int, device: str, begun: bool) -> str | None:
    """What a run that says nothing waits for, in words; None for nothing that is known."""
    return lacking(workers, device) or (None if begun else f"none has begun; {free(device)}")


def _trainer(sizes: Sequence[int], gpu: bool, **others: Any) -> Any:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    if len(sizes) == 1:
        return TorchTrainer(**others, scaling_config=ScalingConfig(num_workers=sizes[0], use_gpu=gpu))
    from cluster.elastic import ElasticTrainer

    return ElasticTrainer(sizes, gpu, **others)


def _raise_refused(outcome: Any) -> None:
    """What only a worker could see comes back as a value: Ray would start the workers again."""
    for word, text in (outcome or {}).items():
        raise OUTCOMES[word](text)


def _work(config: Mapping[str, Any]) -> dict[str, str]:
    """What each worker runs."""
    tell(config["news"], (BEGUN,))
    spec = RunSpec.from_plain(config["spec"])
    try:
        if ranks.rank() == 0 and spec.remote is None:  # a worker that Ray has given up may still write
            wait_until_free(spec.folder)
        execute(spec, _ToDriver(config["news"]))
    except tuple(OUTCOMES.values()) as error:
        return {next(word for word, kind in OUTCOMES.items() if isinstance(error, kind)): str(error)}
    return {}


class _ToDriver:
    """A reporter that sends its news to the driver, ticks at most a few times a second."""

    def __init__(self, news: Any) -> None:
        self._news = news
        self._last = 0.0

    def start(self, ticks: int, done: int) -> None:
        self._tell("start", ticks, done)

    def tick(self, done: int) -> None:
        if time.monotonic() - self._last >= REPORT_EVERY_S:
            self._last = time.monotonic()
            self._tell("tick", done)

    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        self._tell("validated", epoch, measured)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def stop(self) -> None:
        with suppress(KeyboardInterrupt):
            self._tell("stop")

    def _tell(self, *news: Any) -> None:
        tell(self._news, news)


@contextmanager
def _relayed(news: Any, reporter: Reporter, lack: Callable[[bool], str | None]) -> Iterator[None]:
    """Hands the workers' news to `reporter` in the background.

    Args:
        lack: told whether workers have been heard of: what they wait for, in words; None for nothing.
    """
    ended = threading.Event()
    relay = threading.Thread(target=_relay, args=(news, reporter, lack, ended), daemon=True)
    relay.start()
    try:
        yield
    finally:
        ended.set()
        relay.join(timeout=10.0)
        reporter.stop()


def _relay(news: Any, reporter: Reporter, lack: Callable[[bool], str | None], ended: threading.Event) -> None:
    from ray.exceptions import RayError
    from ray.util.queue import Empty

    heard, begun = time.monotonic(), False
    while True:
        try:
            kind, *values = news.get(timeout=REPORT_EVERY_S)
        except Empty:
            if ended.is_set():
                return
            if time.monotonic() - heard > SILENCE_S:  # Ray waits without a word for a node to come, or others to end
                heard = time.monotonic()
                if (missing := lack(begun)) is not None:
                    reporter.say(f"waiting for workers: {missing}")
            continue
        except RayError:  # the queue went with its cluster
            return
        heard, begun = time.monotonic(), True
        if kind == BEGUN:
            continue
        with suppress(Stopped):  # Tune wants no more of this trial, and ends its process itself
            getattr(reporter, kind)(*values)
