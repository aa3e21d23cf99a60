"""The card of an exported model: what it is, where it comes from, how good it is, and how to load it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mergenet.config import as_yaml
from mergenet.experiment import Experiment
from mergenet.wiring import split_end

READ = {
    "end": "the test split was read once, at the end",
    "always": "the test split was measured at every validation too and chose nothing",
    "never": "the test split was not read",
}
"""How `evaluation.test` is told."""


def write_card(
    path: Path,
    experiment: Experiment,
    result: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Writes the card of the learner that `config` describes, in Markdown.

    Args:
        result: of the run, with its figures.
        manifest: of the run, with its versions.
        config: of the export, with the number of classes, how to build the model, and what its inputs are.
    """
    figures = result["learners"][config["learner"]]
    sections = [
        _title(experiment, config),
        _loading(config),
        _figures(experiment, figures, config),
        _training(experiment, figures, config),
        _transfers(experiment, result["transfers"], config["learner"]),
        _limits(experiment, config),
        _provenance(manifest, config),
    ]
    path.write_text("\n\n".join(sections) + "\n")


def _title(experiment: Experiment, config: Mapping[str, Any]) -> str:
    how = " ".join(_ways(experiment, config["learner"])) or "It trained alone."
    return (
        f"# {experiment.name}: {config['learner']}\n\n"
        f"A `{config['model']}` that tells {config['classes']} classes of images apart, trained on "
        f"{_data(experiment, config)}. {how}"
    )


def _ways(experiment: Experiment, learner: str) -> Iterator[str]:
    """How others had a part in its training, in a sentence each."""
    if any(split_end(t.target)[0] == learner for t in experiment.enabled_transfers().values()):
        yield (
            "While it trained, generated weights were written into it (MergeNet, arXiv 2404.13322); what generated "
            "them is gone, and the model is as large and as fast as without."
        )
    found = experiment.lesson_of(learner)
    if found is not None:
        _, lesson = found
        models = [f"a `{experiment.learners[split_end(end)[0]].model}`" for end in lesson.teachers]
        word = next(iter(lesson.dump()["loss"]))
        if models:
            yield f"It learned from {' and '.join(models)} by the loss `{word}`; no teacher is needed any more."
        else:
            yield f"It learned by the loss `{word}`."
    for share in experiment.enabled_shares().values():
        (large, held), (small, has) = split_end(share.large), split_end(share.small)
        if small == learner:
            yield f"The weight of its `{has}` was trained as a slice of a `{experiment.learners[large].model}`'s."
        if large == learner:
            yield f"A slice of the weight of its `{held}` was trained by a `{experiment.learners[small].model}`, too."


def _data(experiment: Experiment, config: Mapping[str, Any]) -> str:
    """The data set, and which of its classes were seen where it was not all."""
    data, classes = next(iter(config["data"])), experiment.learners[config["learner"]].trained_task.classes
    if classes is None:
        return f"`{data}`"
    low, high = classes
    return f"the classes {low} to {high - 1} of `{data}`, which it numbers from 0"


def _loading(config: Mapping[str, Any]) -> str:
    """The code is complete: pasted into Python in this folder, it runs."""
    text = f"## Loading\n\nIn this folder, with torch, torchvision and safetensors:\n\n```python\n{_code(config)}```"
    if config["program"]:
        text += (
            "\n\nWith torch alone, `torch.export.load('model.pt2').module()` is the same function of normalised "
            "images, any number of them at once."
        )
    return text


def _code(config: Mapping[str, Any]) -> str:
    build, inputs = config["build"], config["input"]
    arguments = ", ".join(f"{name}={value!r}" for name, value in build["arguments"].items())
    return (
        "import torch\n"
        "from safetensors.torch import load_file\n\n"
        f"from {build['module'].removesuffix('.py')} import {build['function']}\n\n"
        f"model = {build['function']}({arguments})\n"
        'model.load_state_dict(load_file("model.safetensors"))\n'
        "model.eval()\n"
        f"\nimages = torch.zeros(1, {', '.join(map(str, inputs['shape']))}, dtype=torch.uint8)  # yours, RGB\n"
        f"mean = torch.tensor({inputs['mean']}).view(-1, 1, 1)\n"
        f"deviation = torch.tensor({inputs['deviation']}).view(-1, 1, 1)\n"
        "with torch.inference_mode():\n"
        "    logits = model((images.float() / 255 - mean) / deviation)\n"
        "classes = logits.argmax(1)  # config.json has their names, where the data has any\n"
    )


def _figures(experiment: Experiment, figures: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    splits = [split for split in ("validation", "test") if split in figures]
    metrics = list(figures[splits[-1]]) if splits else []
    rows = [
        f"| {metric} | " + " | ".join(f"{figures[split][metric]:.4g}" for split in splits) + " |" for metric in metrics
    ]
    cuts = experiment.learners[config["learner"]].trained_task.parts
    told = (
        f" The classes are cut into parts at {', '.join(map(str, cuts))}: `part` is of a part's own samples, answered "
        "among all classes, and `within` among those of the part alone."
        if cuts
        else ""
    )
    table = "\n".join([f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|", *rows])
    return (
        f"## Figures\n\n{table}\n\n"
        f"Accuracies in percent, the loss in nats a sample; one seed ({config['seed']}), so nothing is known of their "
        f"spread, and no difference from another model can be told from chance.{told}"
    )


def _training(experiment: Experiment, figures: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    options = experiment.learners[config["learner"]]
    held = experiment.evaluation.validation
    kept = (
        f"The weights are the best of validation, of tick {config['tick']}."
        if config["weights"] == "best"
        else "The weights are the last."
    )
    read = READ[experiment.evaluation.test]
    begun = options.weights
    first = f"the weights `{Path(begun).name}`" if begun else "random weights"
    protocol = {"task": options.dump()["task"], "training": options.dump()["training"]}
    found = experiment.lesson_of(config["learner"])
    if found is not None:
        protocol["loss"] = found[1].dump()["loss"]
    return (
        f"## Training\n\n{figures['steps']} steps from {first}. {held:.0%} of the training split was held out for "
        f"validation; {read}. {kept}\n\n```yaml\n{as_yaml(protocol)}```"
    )


def _transfers(experiment: Experiment, endings: Mapping[str, Any], learner: str) -> str:
    lines = []
    for name, transfer in experiment.enabled_transfers().items():
        if split_end(transfer.target)[0] == learner:
            source = experiment.learners[split_end(transfer.source)[0]]
            ending = endings[name]
            stopped = "" if ending["stopped_at"] is None else f" It stopped at tick {ending['stopped_at']}."
            lines.append(
                f"- `{transfer.source}` (`{source.model}`) into `{split_end(transfer.target)[1]}`: "
                f"{ending['updates']} times, every {transfer.cycle} steps.{stopped}"
            )
    return "## Transfers into it\n\n" + ("\n".join(lines) or "None.")


def _limits(experiment: Experiment, config: Mapping[str, Any]) -> str:
    task = experiment.learners[config["learner"]].trained_task
    which = "the" if task.classes is None else "only these"
    shape = " x ".join(map(str, config["input"]["shape"]))
    return (
        f"## Limits\n\n- It knows {which} {config['classes']} classes of `{task.data}` and answers one of them for any "
        "image.\n"
        f"- It was trained and measured on images of {shape}; of others nothing is known.\n"
        "- Nothing was measured of other data, of shifted or hostile images, or of single groups within the classes."
    )


def _provenance(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    data, digest = next(iter(config["data"].items()))
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    rows = {
        f"data `{data}`, SHA-256": digest,
        "run": config["run"],
        "cell": config["cell"],
        "your code, SHA-256": config["code_digest"],
        "commit": manifest.get("commit"),
        "trained with": f"{versions}, Python {manifest['python']}",
    }
    lines = [f"| {what} | {value} |" for what, value in rows.items() if value]
    return "## Provenance\n\n| | |\n|---|---|\n" + "\n".join(lines)
