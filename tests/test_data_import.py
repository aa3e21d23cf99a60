"""Images in the forms people keep them in become one and the same data set, or one line that says why not."""

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import CIFAR100

from mergenet.config import parse
from mergenet.data import load_data
from mergenet.data.catalogue import find_data_set
from mergenet.data.cifar import CIFAR10
from mergenet.data.description import Description, mean_and_deviation
from mergenet.data.formats.source import Wishes
from mergenet.data.images import Images, Split
from mergenet.data.importer import import_data
from mergenet.experiment import Experiment
from mergenet.training.plan import make_plan
from tests import data_sources
from tests.refused import refusal


@pytest.fixture(scope="module")
def hundred(cifar100_small: Path) -> Images:
    """200 training and 100 test images of CIFAR-100, each class the same number of times."""
    whole = find_data_set("cifar100", cifar100_small).read()
    return Images(first(whole.train, 2), first(whole.test, 1), 100, whole.mean, whole.deviation, whole.names)


def first(split: Split, each: int) -> Split:
    """The first `each` images of every class, in the order of the split."""
    rows = [(split.labels == label).nonzero().flatten()[:each] for label in range(100)]
    return split.at(torch.cat(rows).sort().values)


@pytest.fixture(scope="module")
def ten(hundred: Images) -> Images:
    """The same images, labelled as if CIFAR-10's."""
    train, test = (Split(split.images, split.labels % 10) for split in (hundred.train, hundred.test))
    return Images(train, test, 10, CIFAR10.mean, CIFAR10.deviation, CIFAR10.names)


@pytest.fixture(scope="module")
def few(hundred: Images) -> Images:
    """The images of three classes that come in another order than their names."""
    names = ("owl", "cat", "mole")

    def of(split: Split) -> Split:
        return split.at((split.labels < 3).nonzero().flatten())

    return Images(of(hundred.train), of(hundred.test), 3, hundred.mean, hundred.deviation, names)


def imported(source: Path, root: Path, name: str = "mine", form: str | None = None, **wishes: Any) -> Images:
    """`source` as read back from `root`."""
    import_data(name, source, root, form, Wishes(**wishes))
    return load_data({name}, {name: str(root / name)})[name]


def refused(source: Path, root: Path, name: str = "mine", form: str | None = None, **wishes: Any) -> str:
    """Why `source` is refused; nothing may be left behind."""
    before = sorted(root.parent.rglob("*"))
    text = refusal(lambda: import_data(name, source, root, form, Wishes(**wishes)))
    assert sorted(root.parent.rglob("*")) == before
    assert text.startswith(f"data {name}: ")
    return text.removeprefix(f"data {name}: ")


# --- the same data whatever its form -----------------------------------------------------------------------------

Writer = Callable[[Path, Images], Path]


def in_archive(write: Writer) -> Writer:
    return lambda folder, images: data_sources.archive(write(folder, images))


def in_parent(write: Writer) -> Writer:
    return lambda folder, images: write(folder, images).parent


HUNDRED: dict[str, Writer] = {
    "pickles": data_sources.write_cifar100_pickles,
    "pickles in their parent": in_parent(data_sources.write_cifar100_pickles),
    "pickles in an archive": in_archive(data_sources.write_cifar100_pickles),
    "pickles in an archive of ./": lambda folder, images: data_sources.archive(
        data_sources.write_cifar100_pickles(folder, images), dotted=True
    ),
    "binary": data_sources.write_cifar100_binary,
    "binary in an archive": in_archive(data_sources.write_cifar100_binary),
    "Hugging Face": data_sources.write_hugging_face,
}

TEN: dict[str, Writer] = {
    "pickles": data_sources.write_cifar10_pickles,
    "pickles in an archive": in_archive(data_sources.write_cifar10_pickles),
    "binary": data_sources.write_cifar10_binary,
    "binary in their parent": in_parent(data_sources.write_cifar10_binary),
    "Hugging Face": lambda folder, images: data_sources.write_hugging_face(folder, images, "image", "label"),
}


@pytest.mark.parametrize("form", HUNDRED)
def test_cifar100_is_the_same_data_from_every_form(hundred: Images, tmp_path: Path, form: str) -> None:
    found = imported(HUNDRED[form](tmp_path / "source", hundred), tmp_path / "data")
    assert found.digest() == hundred.digest()
    assert (found.names, found.classes) == (hundred.names, 100)
    assert (found.mean, found.deviation) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@pytest.mark.parametrize("form", TEN)
def test_cifar10_is_the_same_data_from_every_form(ten: Images, tmp_path: Path, form: str) -> None:
    found = imported(TEN[form](tmp_path / "source", ten), tmp_path / "data")
    assert found.digest() == ten.digest()
    assert (found.names, found.mean, found.deviation) == (CIFAR10.names, CIFAR10.mean, CIFAR10.deviation)


@pytest.mark.parametrize("form", data_sources.DUMPS)
def test_pickles_of_every_age_are_read(hundred: Images, tmp_path: Path, form: str) -> None:
    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred, data_sources.DUMPS[form])
    assert imported(source, tmp_path / "data").digest() == hundred.digest()


def test_an_array_kept_column_by_column_is_read_as_what_it_is(hundred: Images, tmp_path: Path) -> None:
    def dump(values: dict[str, Any]) -> bytes:
        return pickle.dumps({key: np.asfortranarray(v) if key == "data" else v for key, v in values.items()}, 4)

    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred, dump)
    assert imported(source, tmp_path / "data").digest() == hundred.digest()


def test_torchvision_reads_the_same_pickles_the_same(hundred: Images, tmp_path: Path) -> None:
    class Unchecked(CIFAR100):  # ours are not the 60,000 images whose checksums it knows
        train_list = [["train", None]]
        test_list = [["test", None]]
        meta = {"filename": "meta", "key": "fine_label_names", "md5": None}

    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred).parent
    found = imported(source, tmp_path / "data")
    for train, split in ((True, found.train), (False, found.test)):
        theirs = Unchecked(source, train=train)
        assert torch.equal(torch.from_numpy(theirs.data).permute(0, 3, 1, 2), split.images)
        assert theirs.targets == split.labels.tolist() and tuple(theirs.classes) == found.names


def test_what_was_imported_can_be_imported_again(few: Images, tmp_path: Path) -> None:
    once = imported(data_sources.write_hugging_face(tmp_path / "source", few), tmp_path / "data")
    again = imported(tmp_path / "data" / "mine", tmp_path / "data", name="other")
    assert again.digest() == once.digest() == few.digest() and again.names == few.names


def test_the_columns_that_a_user_names_are_read(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few, "picture", "kind")
    assert "has no column image or img; say which with --image: picture, kind" in refused(source, tmp_path / "data")
    assert imported(source, tmp_path / "data", image="picture", label="kind").digest() == few.digest()
    other = imported(source, tmp_path / "data", name="coarse", image="picture", label="coarse_label")
    assert (other.classes, other.names, int(other.train.labels.sum())) == (1, ("0",), 0)


def test_parts_without_a_total_are_read_in_the_order_of_their_numbers(hundred: Images, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number, label in enumerate(hundred.train.labels[:12].tolist()):
        rows = {"image": [data_sources.png(hundred.train.images[number])], "label": [label]}
        parquet.write_table(pyarrow.table(rows), tmp_path / "source" / f"train_{number}.parquet")
    shutil.copy(tmp_path / "source" / "train_3.parquet", tmp_path / "source" / "validation.parquet")
    train = imported(tmp_path / "source", tmp_path / "data").train
    assert torch.equal(train.images, hundred.train.images[:12]) and torch.equal(train.labels, hundred.train.labels[:12])


# --- folders of images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_a_folder_a_class_holds_the_same_images_under_the_same_names(few: Images, tmp_path: Path, test: str) -> None:
    found = imported(data_sources.write_image_folder(tmp_path / "source", few, test), tmp_path / "data")
    assert found.names == ("cat", "mole", "owl")
    for ours, theirs in ((found.train, few.train), (found.test, few.test)):
        for label, name in enumerate(found.names):
            kept = theirs.images[theirs.labels == few.names.index(name)]
            assert torch.equal(ours.images[ours.labels == label], kept)
        assert len(ours) == len(theirs)


def test_classes_are_numbered_in_the_order_of_their_names(hundred: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", hundred)
    assert imported(source, tmp_path / "data").names == tuple(sorted(hundred.names))


def test_images_are_found_at_any_depth_and_other_files_are_left_alone(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    whole = imported(source, tmp_path / "data").digest()
    (source / "train" / ".cache").mkdir()
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        (source / "train" / "cat" / name).write_text("no image")
    for deep in (source / "train" / "owl" / "2026", source / "train" / "owl" / "2027"):
        deep.mkdir()
    images = sorted((source / "train" / "owl").glob("*.png"))
    for number, file in enumerate(images):
        file.rename(file.parent / str(2026 + (number >= len(images) // 2)) / file.name)
    assert imported(source, tmp_path / "data", name="deep").digest() == whole


def test_a_folder_without_a_test_split_is_told_where_to_put_one(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    shutil.rmtree(source / "test")
    assert refused(source, tmp_path / "data") == (
        f"{source} has no test split: put images that no training is to see into {source}/test/CLASS/ "
        "(or val, valid or validation in place of test)"
    )


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_a_class_that_one_split_lacks_is_named(few: Images, tmp_path: Path, split: str, other: str) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    shutil.rmtree(source / other / "mole")
    assert refused(source, tmp_path / "data").startswith(f"{source}: class 'mole' is in {split}/ and not in {other}/")


def test_a_class_without_images_is_named(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    for file in (source / "test" / "cat").iterdir():
        file.unlink()
    assert refused(source, tmp_path / "data").startswith(f"{source}/test/cat holds no images")


# --- sizes -------------------------------------------------------------------------------------------------------


def write_photographs(folder: Path, *sizes: tuple[int, int]) -> Path:
    """One class of images of these widths and heights, whose left half is red and whose right half is blue."""
    for split in ("train", "test"):
        (folder / split / "flag").mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            image = Image.new("RGB", (width, height), (0, 0, 255))
            image.paste((255, 0, 0), (0, 0, width // 2, height))
            image.save(folder / split / "flag" / f"{number}.png")
    return folder


def test_unequal_sizes_are_named_and_a_size_makes_them_equal(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "source", (40, 20), (20, 20), (10, 30))
    assert refused(source, tmp_path / "data") == (
        f"{source}/train/flag/1.png: an image of (3, 20, 20), not (3, 20, 40); "
        "--size PIXELS brings all of them to one square"
    )
    found = imported(source, tmp_path / "data", size=8)
    assert found.train.images.shape == found.test.images.shape == (3, 3, 8, 8)
    red, green, blue = found.train.images.unbind(1)
    assert bool((red[:, :, :3] == 255).all() and (red[:, :, 5:] == 0).all())  # the middle, upright, not squeezed
    assert bool((blue[:, :, :3] == 0).all() and (blue[:, :, 5:] == 255).all()) and int(green.max()) == 0


def test_a_size_cuts_out_the_middle_of_the_longer_side(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "source" / split / "bar").mkdir(parents=True)
        image = Image.new("L", (16, 4), 0)
        image.paste(200, (6, 0, 10, 4))
        image.save(tmp_path / "source" / split / "bar" / "1.bmp")
    found = imported(tmp_path / "source", tmp_path / "data", size=4)
    assert found.train.images.unique().tolist() == [200]


def test_a_size_that_images_have_already_leaves_them_as_they_are(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    assert imported(source, tmp_path / "data", size=32).digest() == few.digest()


def test_test_images_of_another_size_than_the_training_ones_are_named(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    files = sorted((source / "test").glob("*/*.png"))
    for file in files:
        Image.new("RGB", (28, 30)).save(file)
    assert refused(source, tmp_path / "data").startswith(f"{files[0]}: an image of (3, 30, 28), not (3, 32, 32)")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_kinds_become_rgb(few: Images, tmp_path: Path, mode: str) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    file = sorted((source / "train" / "cat").iterdir())[0]
    Image.open(file).convert(mode).save(file)
    expected = np.array(Image.open(file).convert("RGB"))
    found = imported(source, tmp_path / "data").train.images[0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_an_image_of_16_bits_is_refused_rather_than_turned_white(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_image_folder(tmp_path / "source", few)
    file = next((source / "train" / "cat").iterdir())
    Image.fromarray(np.full((32, 32), 9000, dtype=np.uint16)).save(file)
    assert refused(source, tmp_path / "data").endswith("it has more than 8 bits a channel; save it with 8")


# --- pickles that ask for more -----------------------------------------------------------------------------------


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def malicious(file: Path) -> dict[str, bytes]:
    """Pickles that would write `file`, or reach further into numpy than an array of bytes."""
    import os

    command = f"touch {file}"
    stack = f"cos\nsystem\n(S'{command}'\ntR.".encode()
    return {
        "system": pickle.dumps({"data": Calls(os.system, command), "fine_labels": [0]}),
        "system by hand": stack,
        "eval": pickle.dumps({"data": Calls(eval, f"open({str(file)!r}, 'w')"), "fine_labels": [0]}),
        "open": b"c__builtin__\nopen\n(S'" + str(file).encode() + b"'\nS'w'\ntR.",
        "a method": pickle.dumps({"data": Calls(np.zeros(3, dtype=np.uint8).tofile, str(file))}),
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        "load": pickle.dumps({"data": Calls(np.load, str(file), None, True)}),
        "codec": b"c_codecs\ndecode\n(S'a'\nS'zip_codec'\ntR.",
        "objects": pickle.dumps({"data": np.array([object], dtype=object), "fine_labels": [0]}),
        "wide": pickle.dumps({"data": np.zeros((1, 3072), dtype=np.int64), "fine_labels": [0]}),
        "signed": pickle.dumps({"data": np.zeros((200, 3072), dtype=np.int8), "fine_labels": [0] * 200}),
    }


@pytest.mark.parametrize("kind", malicious(Path("x")))
def test_a_malicious_pickle_runs_nothing(hundred: Images, tmp_path: Path, kind: str) -> None:
    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred)
    proof = tmp_path / "proof"
    (source / "train").write_bytes(malicious(proof)[kind])
    text = refused(source, tmp_path / "data")
    assert text.startswith(f"{source}/train cannot be read (cut short?): ") and not proof.exists()


def test_a_pickle_cannot_change_what_the_next_one_meets(hundred: Images, tmp_path: Path) -> None:
    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred)
    whole = (source / "train").read_bytes()
    for name in (b"numpy.core.multiarray\n_reconstruct", b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"):
        sets_attribute = b"c" + name + b"\n(N}Vspoilt\nK\x01stb0"
        (source / "train").write_bytes(b"\x80\x02" + sets_attribute + whole[2:])
        assert "cannot be read" in refused(source, tmp_path / "data")


def test_the_pickles_of_that_test_do_harm_where_nothing_holds_them(tmp_path: Path) -> None:
    pickle.loads(malicious(tmp_path / "proof")["system"])
    assert (tmp_path / "proof").exists()


# --- cut short, missing, misnamed --------------------------------------------------------------------------------

SHORT: dict[str, tuple[Writer, str]] = {
    "pickle": (data_sources.write_cifar100_pickles, "test"),
    "binary": (data_sources.write_cifar100_binary, "train.bin"),
    "parquet": (data_sources.write_hugging_face, "test-00000-of-00001.parquet"),
    "image": (data_sources.write_image_folder, "test/apple/*.png"),
}


@pytest.mark.parametrize("kept", [0.0, 0.013, 0.503, 0.983])
@pytest.mark.parametrize("form", SHORT)
def test_a_file_cut_short_is_named(hundred: Images, tmp_path: Path, form: str, kept: float) -> None:
    write, cut = SHORT[form]
    source = write(tmp_path / "source", hundred)
    (file,) = source.glob(cut)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    text = refused(source, tmp_path / "data")
    assert text.startswith(str(file)) and "(cut short?)" in text


@pytest.mark.parametrize("kept", [0.0, 0.013, 0.503, 0.983])
@pytest.mark.parametrize("write", [data_sources.write_cifar100_pickles, data_sources.write_cifar100_binary])
def test_an_archive_cut_short_is_named(hundred: Images, tmp_path: Path, write: Writer, kept: float) -> None:
    source = data_sources.archive(write(tmp_path / "source", hundred))
    content = source.read_bytes()
    source.write_bytes(content[: int(kept * len(content))])
    text = refused(source, tmp_path / "data")
    assert text.startswith(str(source)) and "cannot be read (cut short?)" in text


def test_files_of_the_same_name_elsewhere_in_an_archive_are_left_alone(hundred: Images, tmp_path: Path) -> None:
    source = data_sources.write_cifar100_binary(tmp_path / "source", hundred)
    packed = tmp_path / "both.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(source / "test.bin", "old/train.bin")
        tar.add(source, "cifar-100-binary")
        tar.add(source / "test.bin", "old/train.bin")
    assert imported(packed, tmp_path / "data").digest() == hundred.digest()


def test_a_missing_batch_is_named(ten: Images, tmp_path: Path) -> None:
    source = data_sources.write_cifar10_pickles(tmp_path / "source", ten)
    (source / "data_batch_3").unlink()
    assert refused(source, tmp_path / "data") == f"{source}/data_batch_3 is missing"
    packed = data_sources.archive(source)
    assert refused(packed, tmp_path / "data") == f"{packed}: cifar-10-batches-py/data_batch_3 is missing"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"fine_labels": [100] * 200}, "has a label outside 0 to 99"),
        ({"fine_labels": [-1] * 200}, "has a label outside 0 to 99"),
        ({"fine_labels": [2**70] * 200}, "cannot be read"),
        ({"fine_labels": [0.5] * 200}, "fine_labels is no list of whole numbers"),
        ({"fine_labels": [0] * 199}, "data is no array of 199 x 3072 bytes"),
        ({"fine_labels": []}, "fine_labels is no list of whole numbers"),
        ({"data": b"0" * 3072 * 200}, "data is no array of 200 x 3072 bytes"),
        ({"data": None}, "data is no array of 200 x 3072 bytes"),
    ],
)
def test_a_pickle_that_holds_something_else_is_named(
    hundred: Images, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    source = data_sources.write_cifar100_pickles(tmp_path / "source", hundred)
    batch = {**data_sources.batch_of(hundred.train, "fine_labels"), **change}
    (source / "train").write_bytes(pickle.dumps(batch))
    text = refused(source, tmp_path / "data")
    assert text.startswith(f"{source}/train ") and part in text


def test_a_source_in_no_known_form_is_told_what_was_looked_for(few: Images, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    text = refused(tmp_path / "source", tmp_path / "data")
    for form in ("cifar-10-batches-py", "cifar-100-binary", "train/CLASS", "train*.parquet"):
        assert form in text
    assert refused(tmp_path / "sorce", tmp_path / "data") == (
        f"no file or folder {tmp_path / 'sorce'}; nearest is 'source'"
    )


def test_a_source_that_the_system_cannot_look_at_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / (300 * "x"), tmp_path / "data").endswith("x cannot be read: File name too long")


def test_a_source_in_two_forms_needs_a_choice(few: Images, ten: Images, tmp_path: Path) -> None:
    source = tmp_path / "source"
    data_sources.write_image_folder(source, few)
    data_sources.write_hugging_face(source, few)
    assert refused(source, tmp_path / "data").endswith("could be image-folder or parquet; say which with --format")
    assert imported(source, tmp_path / "data", form="parquet").digest() == few.digest()
    assert refused(source, tmp_path / "other", form="cifar-binary").startswith(f"{source} holds neither cifar-10-")


def test_two_cifars_in_one_folder_need_a_choice(hundred: Images, ten: Images, tmp_path: Path) -> None:
    data_sources.write_cifar10_pickles(tmp_path / "source", ten)
    data_sources.write_cifar100_pickles(tmp_path / "source", hundred)
    assert refused(tmp_path / "source", tmp_path / "data").endswith(
        "holds cifar-10-batches-py and cifar-100-python; name one of them"
    )


def test_a_wish_that_means_nothing_is_refused(ten: Images, tmp_path: Path) -> None:
    source = data_sources.write_cifar10_binary(tmp_path / "source", ten)
    assert refused(source, tmp_path / "data", size=16) == "--size means nothing for cifar-binary; leave it out"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "digits", 101 * "x"])
def test_a_name_that_can_be_none_is_refused(few: Images, tmp_path: Path, name: str) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    refused(source, tmp_path / "data", name=name)


# --- what is written ---------------------------------------------------------------------------------------------


def test_the_description_says_what_there_is_and_no_path(few: Images, tmp_path: Path) -> None:
    imported(data_sources.write_hugging_face(tmp_path / "source", few), tmp_path / "data")
    text = (tmp_path / "data" / "mine" / "dataset.json").read_text()
    said = json.loads(text)
    pixels = few.train.images.double().transpose(0, 1).flatten(1) / 255.0
    assert said.pop("mean") == pytest.approx(pixels.mean(1).tolist(), abs=5.1e-5)
    assert said.pop("deviation") == pytest.approx(pixels.std(1, correction=0).tolist(), abs=5.1e-5)
    assert said == {
        "format": 1,
        "name": "mine",
        "classes": ["owl", "cat", "mole"],
        "size": [3, 32, 32],
        "train": 6,
        "test": 3,
        "digest": few.digest(),
    }
    assert "source" not in text and str(tmp_path) not in text


def test_the_files_hold_png_and_whole_numbers_in_row_groups(hundred: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", six_times(hundred))
    imported(source, tmp_path / "data")
    folder = tmp_path / "data" / "mine"
    assert sorted(file.name for file in folder.iterdir()) == ["dataset.json", "test.parquet", "train.parquet"]
    file = parquet.ParquetFile(folder / "train.parquet")
    assert file.metadata.num_row_groups == 3 and file.schema_arrow.names == ["image", "label"]
    last = file.read().slice(1199).to_pylist()[0]
    with Image.open(io.BytesIO(last["image"])) as image:
        assert image.format == "PNG" and image.tobytes() == hundred.train.images[-1].permute(1, 2, 0).numpy().tobytes()
    assert last["label"] == int(hundred.train.labels[-1])


def six_times(images: Images) -> Images:
    train = Split(images.train.images.repeat(6, 1, 1, 1), images.train.labels.repeat(6))
    return Images(train, images.test, images.classes, images.mean, images.deviation, images.names)


def test_mean_and_deviation_are_those_of_each_channel() -> None:
    images = torch.zeros(2, 3, 1, 2, dtype=torch.uint8)
    images[0, 0], images[:, 1] = 255, 51
    images[1, 2, 0, 1] = 255
    assert mean_and_deviation(images) == ((0.5, 0.2, 0.25), (0.5, 1.0, 0.433))


def test_a_part_of_cifar_keeps_the_usual_mean_and_deviation_by_its_name(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few, label="label")
    for file in source.iterdir():
        parquet.write_table(parquet.read_table(file).replace_schema_metadata(None), file)
    found = imported(source, tmp_path / "data", name="cifar10")
    assert (found.names, found.mean) == (CIFAR10.names, CIFAR10.mean)
    assert imported(source, tmp_path / "data", name="mine").names == ("0", "1", "2")


def test_the_same_data_again_is_left_alone_and_other_data_refused(few: Images, ten: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    assert import_data("mine", source, tmp_path / "data")[1] is False
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "data" / "mine").iterdir()}
    assert import_data("mine", source, tmp_path / "data")[1] is True
    other = data_sources.write_cifar10_binary(tmp_path / "source", ten)
    text = refused(other, tmp_path / "data")
    assert f"holds other data (digest {few.digest()[:8]}, not {ten.digest()[:8]})" in text
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "data" / "mine").iterdir()} == stamps


def test_the_same_images_in_classes_of_other_names_are_other_data(few: Images, tmp_path: Path) -> None:
    """The digest is that of pixels and labels; names decide how many classes a model has."""
    imported(data_sources.write_hugging_face(tmp_path / "source", few), tmp_path / "data")
    one_more = data_sources.write_hugging_face(tmp_path / "more", replace(few, names=(*few.names, "one more")))
    assert "in classes of other names" in refused(one_more, tmp_path / "data")


def test_the_same_data_in_a_broken_folder_is_not_taken_for_whole(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    imported(source, tmp_path / "data")
    (tmp_path / "data" / "mine" / "test.parquet").write_bytes(b"PAR1")
    assert "test.parquet cannot be read" in refused(source, tmp_path / "data")


def test_a_folder_that_is_something_else_is_left_alone(few: Images, tmp_path: Path) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert "is there already and holds no dataset.json" in refused(source, tmp_path / "data")


@pytest.mark.parametrize("at", ["reading train", "reading test", "writing train", "writing test", "verifying"])
@pytest.mark.parametrize("deep", ["data", "a/b/data"])
def test_an_interrupted_import_leaves_nothing(few: Images, tmp_path: Path, at: str, deep: str) -> None:
    source = data_sources.write_hugging_face(tmp_path / "source", few)
    before = sorted(tmp_path.rglob("*"))
    seen: list[str] = []

    def interrupted(items: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
        seen.append("verifying" if seen.count(doing) else doing)
        for item in items:
            yield item
            if seen[-1] == at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data("mine", source, tmp_path / deep, watch=interrupted)
    assert sorted(tmp_path.rglob("*")) == before and seen[-1] == at


def test_progress_counts_every_image_read(few: Images, tmp_path: Path) -> None:
    counts: dict[str, list[int]] = {}

    def watch(items: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
        listed = list(items)
        counts.setdefault(doing, []).extend((len(listed), total))
        return listed

    import_data("mine", data_sources.write_image_folder(tmp_path / "source", few), tmp_path / "data", watch=watch)
    assert counts["reading train"] == [6, 6, 6, 6] and counts["reading test"] == [3, 3, 3, 3]
    assert counts["writing train"] == counts["writing test"] == [1, 1]


# --- training on it ----------------------------------------------------------------------------------------------


def test_a_plan_is_made_on_imported_images(
    few: Images, tmp_path: Path, small: Callable[[dict[str, Any]], Experiment]
) -> None:
    imported(data_sources.write_image_folder(tmp_path / "source", few), tmp_path / "data", "pets", size=16)
    learner = {"task": {"classification": {"data": "pets"}}}
    training = {"epochs": 3, "batch_size": 2}
    learners, transfers = {"source": learner, "target": learner}, {"main": {"encoding": "whole"}}
    experiment = small({"learners": learners, "transfers": transfers, "training": training})
    data = load_data({"pets"}, {"pets": str(tmp_path / "data" / "pets")})
    plan = make_plan(experiment, 0, data, 1)
    assert plan.learners["target"].steps == 6 and plan.contents.data == {"pets": data["pets"].digest()}


def test_a_description_is_read_back_as_it_was_written(few: Images) -> None:
    said: dict[str, Any] = {"name": "x", "classes": ["a"], "size": [3, 1, 1], "train": 1, "test": 1}
    said |= {"mean": [0.5] * 3, "deviation": [1.0] * 3, "digest": "d"}
    assert parse(Description, said).dump() == {"format": 1, **said}
