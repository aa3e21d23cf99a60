"""Real images as bytes in memory, the validation split, keyed batches and their random changes."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from mergenet.data import digits as digits_module
from mergenet.data import load_data
from mergenet.data.catalogue import find_data_set
from mergenet.data.images import Augmentation, Images, Split, Stream, hold_out
from tests.refused import refusal

# --- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_are_all_there(digits: Images) -> None:
    assert (len(digits.train), len(digits.test), digits.classes) == (1438, 359, 10)
    for split in (digits.train, digits.test):
        assert split.images.shape[1:] == (3, 8, 8)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert set(split.labels.tolist()) == set(range(10))


def test_the_digits_are_those_that_scikit_learn_gives(digits: Images) -> None:
    """They are read from its file, without it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images * (255.0 / 16.0)).round().to(torch.uint8)
    given = sorted((int(label), image.flatten().tolist()) for image, label in zip(grey, bunch.target, strict=True))
    splits = (digits.train, digits.test)
    found = ((int(y), x[0].flatten().tolist()) for one in splits for x, y in zip(one.images, one.labels, strict=True))
    assert sorted(found) == given


def test_the_digits_are_grey_and_use_the_whole_range(digits: Images) -> None:
    images = digits.train.images
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    assert (int(images.min()), int(images.max())) == (0, 255)


def test_the_digits_load_the_same_every_time(digits: Images) -> None:
    again = digits_module.load(None)
    assert again is not digits and again.digest() == digits.digest()


def test_the_digits_mean_and_deviation_are_those_of_their_pixels(digits: Images) -> None:
    pixels = torch.cat([digits.train.images, digits.test.images]).double() / 255.0
    assert digits.mean == pytest.approx((float(pixels.mean()),) * 3, abs=5e-4)
    assert digits.deviation == pytest.approx((float(pixels.std()),) * 3, abs=5e-4)


def test_normalised_images_have_mean_zero_and_deviation_one(digits: Images) -> None:
    normalised = digits.normalise(torch.cat([digits.train.images, digits.test.images]))
    assert normalised.dtype == torch.float32
    assert float(normalised.mean()) == pytest.approx(0.0, abs=2e-3)
    assert float(normalised.std()) == pytest.approx(1.0, abs=2e-3)


def test_each_channel_is_normalised_by_its_own_figures() -> None:
    one = Split(torch.full((1, 2, 1, 1), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    data = Images(one, one, classes=1, mean=(0.5, 0.75), deviation=(0.25, 0.5))
    assert data.normalise(one.images).flatten().tolist() == [2.0, 0.5]


def test_digits_take_no_path_and_unknown_data_say_what_to_do(digits: Images) -> None:
    assert refusal(lambda: load_data({"digits"}, {"digits": "x"})).startswith("data digits: comes with scikit-learn")
    assert refusal(lambda: load_data({"digts"}, {})) == (
        "data digts: needs its folder, --data digts=PATH, or mergenet data import digts SOURCE; nearest is 'digits'"
    )


def test_a_digest_sees_pixels_labels_and_their_order(digits: Images) -> None:
    def digest_of(train: Split) -> str:
        return Images(train, digits.test, 10, digits.mean, digits.deviation).digest()

    images, labels = digits.train.images.clone(), digits.train.labels.clone()
    images[3, 0, 2, 2] ^= 1
    labels[3] = (labels[3] + 1) % 10
    turned = digits.train.at(torch.arange(len(digits.train) - 1, -1, -1))
    others = [Split(images, digits.train.labels), Split(digits.train.images, labels), turned]
    assert len({digits.digest(), *(digest_of(other) for other in others)}) == 4
    assert digest_of(digits.train) == digits.digest()


# --- the validation split ----------------------------------------------------------------------------------------


def numbered(count: int) -> Split:
    """Samples whose labels are their numbers."""
    return Split(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.arange(count))


@pytest.mark.parametrize(("count", "share", "held"), [(100, 0.1, 10), (1438, 0.1, 144), (7, 0.5, 4), (10, 0.0, 0)])
def test_held_out_samples_and_the_rest_are_disjoint_and_complete_and_in_order(
    count: int, share: float, held: int
) -> None:
    rest, away = (split.labels.tolist() for split in hold_out(numbered(count), share, "digest"))
    assert len(away) == held
    assert sorted([*rest, *away]) == list(range(count))
    assert rest == sorted(rest) and away == sorted(away)


def test_which_samples_are_held_out_depends_on_the_digest_alone() -> None:
    first = hold_out(numbered(200), 0.1, "digest")[1].labels
    torch.manual_seed(1)
    assert torch.equal(hold_out(numbered(200), 0.1, "digest")[1].labels, first)
    assert not torch.equal(hold_out(numbered(200), 0.1, "other")[1].labels, first)


def test_a_smaller_validation_split_is_part_of_a_larger_one() -> None:
    few, many = (hold_out(numbered(200), share, "digest")[1].labels.tolist() for share in (0.1, 0.3))
    assert set(few) < set(many)


# --- the stream --------------------------------------------------------------------------------------------------

NONE = Augmentation()


def stream_of(
    digits: Images, size: int = 64, count: int = 300, seed: int = 0, rank: int = 0, world: int = 1, **changes: Any
) -> Stream:
    """A stream over the first `count` digits, whose labels are their numbers."""
    split = Split(digits.train.images[:count], torch.arange(count))
    return Stream(digits, split, "digest", size, Augmentation(**changes), seed, rank, world)


def test_an_epoch_shows_every_sample_at_most_once_and_drops_a_short_last_batch(digits: Images) -> None:
    stream = stream_of(digits, size=64, count=300)
    assert stream.steps_per_epoch == 4
    for epoch in range(2):
        seen = torch.cat([stream.batch(4 * epoch + step).labels for step in range(4)]).tolist()
        assert len(seen) == len(set(seen)) == 256


def test_epochs_differ_in_order_and_in_what_is_dropped(digits: Images) -> None:
    stream = stream_of(digits)
    epochs = [torch.cat([stream.batch(4 * epoch + step).labels for step in range(4)]) for epoch in range(2)]
    assert not torch.equal(epochs[0], epochs[1])
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_in_order_hold_the_same_batch_whatever_their_number(digits: Images, world: int) -> None:
    changes: dict[str, Any] = {"crop": 2, "flip": True, "rotation": 30.0}
    alone = stream_of(digits, **changes)
    ranks = [stream_of(digits, rank=rank, world=world, **changes) for rank in range(world)]
    for step in (0, 3, 4, 9):
        parts = [rank.batch(step) for rank in ranks]
        assert {len(part.labels) for part in parts} == {64 // world}
        assert torch.equal(torch.cat([part.labels for part in parts]), alone.batch(step).labels)
        assert torch.equal(torch.cat([part.images for part in parts]), alone.batch(step).images)


def test_a_batch_drawn_ahead_is_the_same_and_stays_for_a_learner_that_comes_later(digits: Images) -> None:
    """Whoever is first draws it; the batch of the step before is there until everyone has had it."""
    stream, fresh = stream_of(digits, flip=True), stream_of(digits, flip=True)
    first = stream.batch(0).labels
    stream.prepare(1)
    ahead = stream.batch(1)
    assert torch.equal(ahead.images, fresh.batch(1).images) and torch.equal(ahead.labels, fresh.batch(1).labels)
    assert stream.batch(0).labels.data_ptr() == first.data_ptr()
    stream.prepare(2)
    assert stream.batch(1).labels.data_ptr() == ahead.labels.data_ptr()


def test_a_batch_depends_on_its_step_alone(digits: Images) -> None:
    steps = [9, 0, 5, 4, 0, 9, 3]
    asked, fresh = stream_of(digits, flip=True), [stream_of(digits, flip=True) for _ in steps]
    for step, other in zip(steps, fresh, strict=True):
        torch.manual_seed(step)
        assert torch.equal(asked.batch(step).images, other.batch(step).images)
        assert torch.equal(asked.batch(step).labels, other.batch(step).labels)


def test_seed_and_digest_key_the_order(digits: Images) -> None:
    split = Split(digits.train.images, torch.arange(len(digits.train)))
    orders = [
        tuple(Stream(digits, split, digest, 64, NONE, seed).batch(0).labels.tolist())
        for digest, seed in (("a", 0), ("a", 1), ("b", 0))
    ]
    assert len(set(orders)) == 3


def test_images_go_with_their_labels(digits: Images) -> None:
    batch = stream_of(digits).batch(7)
    assert torch.equal(batch.images, digits.normalise(digits.train.images[batch.labels]))


def test_the_first_global_batch_is_that_of_step_0_on_every_rank(digits: Images) -> None:
    alone = stream_of(digits).batch(0)
    for rank in range(2):
        found = stream_of(digits, rank=rank, world=2).first_global_batch()
        assert torch.equal(found["images"], alone.images) and torch.equal(found["labels"], alone.labels)


def test_a_batch_lies_where_it_is_wanted_though_its_samples_do_not(digits: Images) -> None:
    split = Split(digits.train.images, digits.train.labels)
    changes = Augmentation(crop=2, flip=True, rotation=30.0)
    batch = Stream(digits, split, "digest", 64, changes, 0, device=torch.device("meta")).batch(3)
    assert split.images.device.type == "cpu"
    assert (batch.images.device.type, tuple(batch.images.shape)) == ("meta", (64, 3, 8, 8))
    assert (batch.labels.device.type, tuple(batch.labels.shape)) == ("meta", (64,))


# --- augmentation ------------------------------------------------------------------------------------------------


def draws(*values: float) -> Tensor:
    return torch.tensor([values])


IMAGE = torch.tensor([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        (0.5, 0.5, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (0.0, 0.5, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        (0.99, 0.5, [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        (0.5, 0.0, [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        (0.5, 0.99, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        (0.0, 0.99, [[0, 0, 0], [2, 3, 0], [5, 6, 0]]),
    ],
)
def test_a_crop_shifts_the_image_and_leaves_zeros(row: float, column: float, expected: list[list[int]]) -> None:
    """With a padding of 1 there are three places a row and a column: thirds of a draw."""
    assert Augmentation(crop=1).apply(IMAGE, draws(row, column, 0.0, 0.0))[0, 0].tolist() == expected


@pytest.mark.parametrize(("draw", "expected"), [(0.49, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]), (0.5, IMAGE[0, 0].tolist())])
def test_half_of_the_images_are_flipped_left_to_right(draw: float, expected: list[list[int]]) -> None:
    assert Augmentation(flip=True).apply(IMAGE, draws(0.0, 0.0, draw, 0.0))[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("rotation", "draw", "quarters"),
    [(90.0, 0.5, 0), (90.0, 1.0, 1), (90.0, 0.0, 3), (180.0, 1.0, 2), (180.0, 0.0, 2), (180.0, 0.75, 1)],
)
@pytest.mark.parametrize("size", [3, 8, 32])
def test_a_turn_by_a_right_angle_is_rot90(
    digits: Images, size: int, rotation: float, draw: float, quarters: int
) -> None:
    """A draw of 0.5 turns by nothing, 1 by the whole rotation and 0 by as much the other way."""
    image = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(size)).to(torch.uint8)
    turned = Augmentation(rotation=rotation).apply(image, draws(0.0, 0.0, 0.0, draw))
    assert torch.equal(turned, torch.rot90(image, quarters, (2, 3)))


def test_a_turn_keeps_the_shape_of_things_on_an_oblong_image() -> None:
    """By a right angle, the square in the middle of 5 x 9 is turned, and nothing reaches the columns beside it."""
    image = torch.randint(1, 256, (1, 1, 5, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = torch.zeros_like(image)
    expected[..., 2:7] = torch.rot90(image[..., 2:7], 1, (2, 3))
    assert torch.equal(Augmentation(rotation=90.0).apply(image, draws(0.0, 0.0, 0.0, 1.0)), expected)


def test_what_a_turn_brings_in_from_outside_is_zero() -> None:
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    turned = Augmentation(rotation=90.0).apply(white, draws(0.0, 0.0, 0.0, 0.75))[0, 0]  # by 45 degrees
    assert [int(turned[row, column]) for row in (0, 7) for column in (0, 7)] == [0, 0, 0, 0]
    assert set(turned.unique().tolist()) == {0, 255} and bool((turned[2:6, 2:6] == 255).all())


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(NONE.apply(IMAGE, draws(0.0, 0.0, 0.0, 0.0)), IMAGE)


def test_images_of_a_batch_are_changed_each_by_its_own_draws(digits: Images) -> None:
    images = digits.train.images[:16]
    drawn = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    changes = Augmentation(crop=2, flip=True, rotation=45.0)
    one_by_one = [changes.apply(images[i : i + 1], drawn[i : i + 1]) for i in range(16)]
    assert torch.equal(changes.apply(images, drawn), torch.cat(one_by_one))


def test_a_sample_is_changed_the_same_whatever_the_batch_size(digits: Images) -> None:
    changes: dict[str, Any] = {"crop": 2, "flip": True, "rotation": 30.0}

    def by_sample(size: int) -> dict[int, Tensor]:
        batches = [stream_of(digits, size, **changes).batch(step) for step in range(300 // size)]
        return {
            int(number): image for batch in batches for number, image in zip(batch.labels, batch.images, strict=True)
        }

    large, small = by_sample(100), by_sample(30)
    assert large.keys() == small.keys() == set(range(300))
    assert all(torch.equal(large[number], small[number]) for number in large)
    plain = {number: digits.normalise(digits.train.images[number]) for number in large}
    assert sum(not torch.equal(large[number], plain[number]) for number in large) > 250


def test_a_sample_is_changed_anew_each_epoch(digits: Images) -> None:
    stream = stream_of(digits, size=300, crop=2)
    first, second = (stream.batch(epoch) for epoch in range(2))
    order = second.labels.argsort()
    assert not torch.equal(first.images[first.labels.argsort()], second.images[order])


@pytest.mark.parametrize("change", [{"crop": -1}, {"rotation": 181.0}, {"rotation": -1.0}, {"flip": 1}])
def test_an_impossible_augmentation_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Augmentation(**change)


# --- CIFAR-100 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar(cifar100_small: Path) -> Images:
    return load_data({"cifar100"}, {"cifar100": str(cifar100_small)})["cifar100"]


def load_bare(folder: Path) -> Images:
    """CIFAR-100 read anew from a folder without a description."""
    return find_data_set("cifar100", folder).read()


def rows_of(folder: Path, count: int = 6) -> dict[str, list[Any]]:
    """The first rows of the training split as columns."""
    table = parquet.read_table(folder / "train.parquet", columns=["image", "fine_label"]).slice(0, count)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def written(folder: Path, train: dict[str, list[Any]], test: Path) -> Path:
    """`folder` with these training rows and the real test split."""
    parquet.write_table(pyarrow.table(train), folder / "train.parquet")
    shutil.copy(test / "test.parquet", folder / "test.parquet")
    return folder


def test_cifar100_is_read_whole_and_balanced(cifar: Images) -> None:
    assert cifar.train.images.shape == (2000, 3, 32, 32) and cifar.test.images.shape == (1000, 3, 32, 32)
    assert (cifar.classes, cifar.train.images.dtype, cifar.train.labels.dtype) == (100, torch.uint8, torch.int64)
    assert cifar.train.labels.bincount().tolist() == [20] * 100
    assert cifar.test.labels.bincount().tolist() == [10] * 100


def test_a_cifar100_image_has_the_pixels_of_its_png(cifar: Images, cifar100_small: Path) -> None:
    from PIL import Image

    rows = rows_of(cifar100_small)
    for number, (png, label) in enumerate(zip(rows["image"], rows["fine_label"], strict=True)):
        pixels = Image.open(io.BytesIO(png)).convert("RGB").tobytes()
        assert cifar.train.images[number].permute(1, 2, 0).numpy().tobytes() == pixels
        assert int(cifar.train.labels[number]) == label


def test_cifar100_mean_and_deviation_are_near_those_of_the_small_set(cifar: Images) -> None:
    normalised = cifar.normalise(cifar.train.images)
    assert normalised.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (normalised.std(dim=(0, 2, 3)) - 1.0).abs().max() < 0.05


def test_files_that_were_replaced_are_read_anew(cifar: Images, cifar100_small: Path, tmp_path: Path) -> None:
    """A Python that stays, as a notebook's, keeps what it has read only while the files are the same."""
    folder = Path(shutil.copytree(cifar100_small, tmp_path / "cifar100"))
    where = {"cifar100": str(folder)}
    before = load_data({"cifar100"}, where)["cifar100"]
    assert load_data({"cifar100"}, where)["cifar100"] is before and before.digest() == cifar.digest()
    (train,) = folder.glob("train*.parquet")
    (test,) = folder.glob("test*.parquet")
    train.unlink()
    shutil.copyfile(test, train)
    assert len(load_data({"cifar100"}, where)["cifar100"].train) == len(before.test)


def test_the_same_rows_in_numbered_parts_are_the_same_data(cifar: Images, cifar100_small: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        table = parquet.read_table(cifar100_small / f"{name}.parquet")
        for part, rows in enumerate((table.slice(0, 700), table.slice(700))):
            parquet.write_table(rows.select(["fine_label", "image"]), tmp_path / f"{name}-{part:05d}-of-00002.parquet")
    assert load_bare(tmp_path).digest() == cifar.digest()


def test_a_missing_part_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    shutil.copy(cifar100_small / "train.parquet", tmp_path / "train-00000-of-00003.parquet")
    shutil.copy(cifar100_small / "train.parquet", tmp_path / "train-00002-of-00003.parquet")
    refused = refusal(lambda: load_bare(tmp_path))
    assert refused == f"data cifar100: {tmp_path}/train-00001-of-00003.parquet is missing, 2 of 3 parts are there"


@pytest.mark.parametrize("kept", [0, 3, 100, 2_000_000, -1])
def test_a_file_cut_short_is_named(cifar100_small: Path, tmp_path: Path, kept: int) -> None:
    shutil.copy(cifar100_small / "test.parquet", tmp_path)
    file = tmp_path / "train.parquet"
    file.write_bytes((cifar100_small / "train.parquet").read_bytes()[:kept])
    assert refusal(lambda: load_bare(tmp_path)).startswith(f"data cifar100: {file} cannot be read (cut short?)")


def test_a_file_with_turned_bits_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    shutil.copy(cifar100_small / "test.parquet", tmp_path)
    file = tmp_path / "train.parquet"
    content = bytearray((cifar100_small / "train.parquet").read_bytes())
    content[1000:20000] = bytes(byte ^ 0x5A for byte in content[1000:20000])
    file.write_bytes(content)
    assert refusal(lambda: load_bare(tmp_path)).startswith(f"data cifar100: {file} ")


BROKEN_ROWS: list[Any] = [
    ("image", [b"no picture at all"], "row 0: not an image that can be read"),
    ("image", [b""], "row 0: not an image that can be read"),
    ("image", [None], "row 0: not an image that can be read"),
    ("fine_label", [100], "fine_label outside 0 to 99"),
    ("fine_label", [-1], "fine_label outside 0 to 99"),
    ("fine_label", [None], "fine_label"),
]


@pytest.mark.parametrize(("column", "values", "part"), BROKEN_ROWS)
def test_a_broken_row_is_named_with_its_file(
    cifar100_small: Path, tmp_path: Path, column: str, values: list[Any], part: str
) -> None:
    rows = rows_of(cifar100_small)
    rows[column][: len(values)] = values
    written(tmp_path, rows, cifar100_small)
    refused = refusal(lambda: load_bare(tmp_path))
    assert refused.startswith(f"data cifar100: {tmp_path}/train.parquet") and part in refused


@pytest.mark.parametrize("convert", [str, lambda label: label + 0.5])
def test_labels_that_are_no_whole_numbers_are_refused(
    cifar100_small: Path, tmp_path: Path, convert: Callable[[int], Any]
) -> None:
    rows = rows_of(cifar100_small)
    rows["fine_label"] = [convert(label) for label in rows["fine_label"]]
    written(tmp_path, rows, cifar100_small)
    assert f"{tmp_path}/train.parquet" in refusal(lambda: load_bare(tmp_path))


def test_a_png_cut_short_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    rows = rows_of(cifar100_small)
    rows["image"][2] = rows["image"][2][:200]
    written(tmp_path, rows, cifar100_small)
    assert f"{tmp_path}/train.parquet row 2: not an image that can be read" in refusal(lambda: load_bare(tmp_path))


def test_an_image_of_another_size_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (28, 28)).save(small, "png")
    rows = rows_of(cifar100_small)
    rows["image"][1] = small.getvalue()
    written(tmp_path, rows, cifar100_small)
    assert f"{tmp_path}/train.parquet row 1: an image of (3, 28, 28)" in refusal(lambda: load_bare(tmp_path))


@pytest.mark.parametrize("column", ["image", "fine_label"])
def test_a_missing_column_is_named_with_its_file(cifar100_small: Path, tmp_path: Path, column: str) -> None:
    rows = rows_of(cifar100_small)
    del rows[column]
    written(tmp_path, rows, cifar100_small)
    refused = refusal(lambda: load_bare(tmp_path))
    (left,) = rows
    assert refused.endswith(f"{tmp_path}/train.parquet needs the columns image and fine_label; it has {left}")


def test_a_file_without_rows_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    table = parquet.read_table(cifar100_small / "train.parquet").slice(0, 0)
    parquet.write_table(table, tmp_path / "train.parquet")
    shutil.copy(cifar100_small / "test.parquet", tmp_path)
    assert f"{tmp_path}/train.parquet has no rows" in refusal(lambda: load_bare(tmp_path))


def test_a_part_whose_number_is_no_number_is_named(cifar100_small: Path, tmp_path: Path) -> None:
    shutil.copy(cifar100_small / "train.parquet", tmp_path / "train-00000-of-many.parquet")
    assert str(tmp_path) in refusal(lambda: load_bare(tmp_path))


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert refusal(lambda: load_data({"cifar100"}, {})).startswith(
        "data cifar100: needs its folder, --data cifar100=PATH"
    )
    assert refusal(lambda: load_bare(tmp_path / "no")) == f"data cifar100: no folder {tmp_path / 'no'}"
    assert refusal(lambda: load_bare(tmp_path)).startswith(f"data cifar100: {tmp_path} holds neither train.parquet")
