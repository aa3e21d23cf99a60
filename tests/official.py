"""The official formulas written a second time: NumPy in float64, one sample after the other, from probabilities.

Nothing here knows the package. `logits` are arrays (N, C), `labels` integers (N,), `weights` a state dict as arrays.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def cross_entropy(logits: Array, labels: Array) -> float:
    return float(np.mean([-np.log(softmax(one)[label]) for one, label in zip(logits, labels, strict=True)]))


def kl(teacher: Array, student: Array) -> float:
    return float(np.sum(teacher * np.log(teacher / student)))


# --- logits ------------------------------------------------------------------------------------------------------


def kd(student: Array, teacher: Array, labels: Array, t: float, hard: float, soft: float, entries: bool) -> float:
    shares = [kl(softmax(b / t), softmax(a / t)) for a, b in zip(student, teacher, strict=True)]
    mean = np.sum(shares) / (student.size if entries else len(student))
    return hard * cross_entropy(student, labels) + soft * t * t * float(mean)


def dkd(
    student: Array, teacher: Array, labels: Array, t: float, alpha: float, beta: float, factor: float
) -> tuple[float, float, float]:
    """The whole, the target class's term and that of the others."""
    targets, others = [], []
    for a, b, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(b / t), softmax(a / t)
        targets.append(kl(np.array([p[y], p.sum() - p[y]]), np.array([q[y], q.sum() - q[y]])))
        others.append(kl(softmax(np.delete(b, y) / t), softmax(np.delete(a, y) / t)))
    target, other = t * t * float(np.mean(targets)), t * t * float(np.mean(others))
    return cross_entropy(student, labels) + factor * (alpha * target + beta * other), target, other


def nkd(student: Array, teacher: Array, labels: Array, t: float, gamma: float, hard: float) -> float:
    target, other = 0.0, 0.0
    for a, b, y in zip(student, teacher, labels, strict=True):
        target -= softmax(b)[y] * np.log(softmax(a)[y])
        other -= float(np.sum(softmax(np.delete(b, y) / t) * np.log(softmax(np.delete(a, y) / t))))
    n = len(labels)
    return hard * cross_entropy(student, labels) + float(target) / n + gamma * t * t * other / n


def tf_kd_reg(student: Array, labels: Array, t: float, alpha: float) -> float:
    n, c = student.shape
    total = 0.0
    for a, y in zip(student, labels, strict=True):
        taught = np.full(c, 0.01 / (c - 1))
        taught[y] = 0.99
        total += kl(softmax(taught / t), softmax(a))
    return (1 - alpha) * cross_entropy(student, labels) + alpha * total / (n * c)


def uskd(
    student: Array, features: Array, labels: Array, head: Weights, by_logarithm: bool, each: Sequence[float]
) -> float:
    """`each`: the weights of the label, of the others and of the weak head."""
    if features.ndim == 4:
        features = features.mean(axis=(2, 3))
    weak_logits = features @ head["head.linear.weight"].T + head["head.linear.bias"]
    of_label = [softmax(a)[y] for a, y in zip(student, labels, strict=True)]
    mean = np.mean(np.square(of_label))
    target = other = weak = 0.0
    for a, w, y, p in zip(student, weak_logits, labels, of_label, strict=True):
        target -= (p * p + 1 - mean) * np.log(p)
        s, v = softmax(a), softmax(w)
        goal = 0.1 / len(a) + 0.9 * (np.arange(len(a)) == y)
        weak -= float(np.sum(goal * np.log(v)))
        s = np.log(s) if by_logarithm else s
        score = v / (1 - v[y] + 1e-6) + s / (1 - s[y] + 1e-6)
        zipf = np.array([1 / (1 + np.sum(score > one)) for one in score])
        soft = np.delete(zipf, y)
        other -= float(np.sum(soft / soft.sum() * np.log(softmax(np.delete(a, y)))))
    parts = np.array([target, other, weak]) / len(labels)
    return cross_entropy(student, labels) + float(np.dot(each, parts))


# --- features ----------------------------------------------------------------------------------------------------


def smooth_l1(one: Array, other: Array) -> float:
    apart = np.abs(one - other)
    return float(np.mean(np.where(apart < 1, apart**2 / 2, apart - 0.5)))


def distances(samples: Array) -> Array:
    apart = np.array([[np.linalg.norm(a - b) for b in samples] for a in samples])
    return apart / apart[apart > 0].mean()


def angles(samples: Array) -> Array:
    n = len(samples)
    cosines = np.zeros((n, n, n))
    for i, at in enumerate(samples):
        for j in set(range(n)) - {i}:
            for k in set(range(n)) - {i}:
                one, other = samples[j] - at, samples[k] - at
                cosines[i, j, k] = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    return cosines


def rkd(student: Array, teacher: Array, labels: Array, logits: Array, distance: float, angle: float) -> float:
    student, teacher = student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)
    relations = distance * smooth_l1(distances(student), distances(teacher))
    return cross_entropy(logits, labels) + relations + angle * smooth_l1(angles(student), angles(teacher))


def convolve(maps: Array, weight: Array, bias: Array | None = None) -> Array:
    """A convolution 3 x 3 with zeros around, or 1 x 1."""
    reach = weight.shape[2] // 2
    wide = np.pad(maps, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    height, width = maps.shape[2:]
    made = np.zeros((len(maps), len(weight), height, width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            seen = wide[:, :, row : row + height, column : column + width]
            made += np.einsum("nchw,oc->nohw", seen, weight[:, :, row, column])
    return made if bias is None else made + bias[:, None, None]


def relu(values: Array) -> Array:
    return np.maximum(values, 0)


def mgd(
    student: Array, teacher: Array, logits: Array, labels: Array, mask: Array, own: Weights, weight: float
) -> float:
    maps = student
    if "generate.align.weight" in own:
        maps = convolve(maps, own["generate.align.weight"], own["generate.align.bias"])
    first, second = ([own[f"generate.generation.{at}.{part}"] for part in ("weight", "bias")] for at in (0, 2))
    made = convolve(relu(convolve(maps * mask, *first)), *second)
    return cross_entropy(logits, labels) + weight * float(np.sum((made - teacher) ** 2)) / len(teacher)


# --- amalgamation ------------------------------------------------------------------------------------------------


def mmd(one: Array, other: Array) -> float:
    def kernels(left: Array, right: Array) -> float:
        total = 0.0
        for a in left:
            for b in right:
                apart = max(float(np.sum((a - b) ** 2)), 1e-12)
                total += sum(np.exp(-apart / (2 * s * s)) for s in (0.001, 0.01, 0.05, 0.1, 0.2, 1, 2))
        return total / len(left) / len(right)

    one, other = (np.array([s.ravel() / np.linalg.norm(s.ravel()) for s in samples]) for samples in (one, other))
    return max(kernels(one, one) + kernels(other, other) - 2 * kernels(one, other), 0.0)


def soft_targets(student: Array, teachers: Sequence[Array], entropy: bool) -> float:
    """Cross-entropy, or without the targets' own entropy the divergence."""
    total = 0.0
    for a, b in zip(student, np.concatenate(teachers, axis=1), strict=True):
        p, q = softmax(b), softmax(a)
        total += -float(np.sum(p * np.log(q))) if entropy else kl(p, q)
    return total / len(student)


def residual(maps: Array, own: Weights, at: str) -> Array:
    inner = convolve(relu(convolve(maps, own[f"{at}.first.weight"])), own[f"{at}.second.weight"])
    short = own.get(f"{at}.shortcut.weight")
    return relu(inner + (maps if short is None else convolve(maps, short)))


def linear(values: Array, own: Weights, at: str) -> Array:
    return values @ own[f"{at}.weight"].T + own[f"{at}.bias"]


def cfl_parts(student: Array, teachers: Sequence[Array], own: Weights) -> tuple[float, float]:
    """Discrepancies and errors of reconstruction, summed over teachers."""
    flat = student.ndim == 2

    def common(values: Array, aligned: str) -> Array:
        if flat:
            values = relu(linear(relu(linear(values, own, f"{aligned}.0")), own, "common.extractor.0"))
            return linear(values, own, "common.extractor.2")
        values = relu(convolve(values, own[f"{aligned}.0.weight"]))
        for block in range(3):
            values = residual(values, own, f"common.extractor.{block}")
        return values

    def decoded(values: Array, at: str) -> Array:
        if flat:
            return linear(relu(linear(values, own, f"{at}.0")), own, f"{at}.2")
        return convolve(relu(convolve(values, own[f"{at}.0.weight"])), own[f"{at}.2.weight"])

    of_student = common(student, "common.align_student")
    apart = error = 0.0
    for index, features in enumerate(teachers):
        of_teacher = common(features, f"common.align_teachers.{index}")
        apart += mmd(of_student, of_teacher)
        error += float(np.mean((decoded(of_teacher, f"common.decoders.{index}") - features) ** 2))
    return apart, error


def layerwise_parts(student: Array, teachers: Sequence[Array], own: Weights) -> tuple[float, float]:
    """The student's error to the encoding, and the decoded features' summed over teachers, position by position."""

    def through(vector: Array, name: str) -> Array:
        return own[f"block.{name}.weight"][:, :, 0, 0] @ vector + own[f"block.{name}.bias"]

    apart, errors = 0.0, [0.0] * len(teachers)
    for at in np.ndindex(len(student), *student.shape[2:]):
        here = (at[0], slice(None), *at[1:])
        encoded = through(np.concatenate([features[here] for features in teachers]), "encoder")
        apart += float(np.sum((through(student[here], "adapter") - encoded) ** 2))
        decoded = list(through(encoded, "decoder"))
        for index, features in enumerate(teachers):
            errors[index] += sum((decoded.pop(0) - wanted) ** 2 for wanted in features[here])
    return apart / student.size, sum(error / features.size for error, features in zip(errors, teachers, strict=True))
