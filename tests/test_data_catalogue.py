"""Finding, listing and verifying data sets, and what `mergenet data` prints of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mergenet.cli.data import FORMATS as FORMATS_OF_THE_COMMAND
from mergenet.config import as_yaml
from mergenet.data import load_data, locate
from mergenet.data.catalogue import find_data_set
from mergenet.data.formats import FORMATS
from mergenet.data.images import Images
from mergenet.data.importer import import_data
from mergenet.experiment import Experiment
from tests import data_sources
from tests.conftest import Outcome
from tests.refused import refusal

Mergenet = Callable[..., Outcome]


@pytest.fixture
def mergenet(call: Mergenet, monkeypatch: pytest.MonkeyPatch) -> Mergenet:
    """Calls the command line in an empty folder, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    return call


@pytest.fixture
def on_pets(tmp_path: Path, small: Callable[..., Experiment]) -> str:
    """A file with a small experiment on the pets."""
    learner = {"task": {"classification": {"data": "pets"}}}
    learners, transfers = {"source": learner, "target": learner}, {"main": {"encoding": "whole"}}
    experiment = small({"learners": learners, "transfers": transfers, "training": {"batch_size": 4}})
    (tmp_path / "small.yaml").write_text(as_yaml(experiment.dump()))
    return "small.yaml"


@pytest.fixture(scope="module")
def pets(cifar100_small: Path) -> Images:
    """Twenty training and ten test images in two classes."""
    whole = find_data_set("cifar100", cifar100_small).read()
    train, test = (split.at((split.labels == 3).nonzero().flatten()) for split in (whole.train, whole.test))
    train.labels[::2], test.labels[::2] = 0, 0
    train.labels[1::2], test.labels[1::2] = 1, 1
    return Images(train, test, 2, whole.mean, whole.deviation, ("cat", "dog"))


@pytest.fixture
def root(pets: Images, tmp_path: Path) -> Path:
    """`tmp_path/data` with `pets` in it, and `tmp_path/source` from which it came."""
    data_sources.write_hugging_face(tmp_path / "source", pets)
    import_data("pets", tmp_path / "source", tmp_path / "data")
    return tmp_path / "data"


def rewrite(file: Path, row: int, **changes: object) -> None:
    """Changes one row of a Parquet file."""
    table = parquet.read_table(file)
    rows = table.to_pylist()
    rows[row].update(changes)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), file)


# --- where it lies -----------------------------------------------------------------------------------------------


def test_a_name_is_found_where_it_was_given_or_in_the_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGENET_DATA", raising=False)
    assert locate({"pets", "digits"}, {}) == {"pets": str(root / "pets")}
    shutil.copytree(root / "pets", tmp_path / "else" / "pets")
    assert locate({"pets"}, {"pets": "else/pets"}) == {"pets": str(tmp_path / "else" / "pets")}
    monkeypatch.setenv("MERGENET_DATA", "else")
    assert locate(["pets"], {}) == {"pets": str(tmp_path / "else" / "pets")}
    found = locate({"digits"}, {"spare": "else"})
    assert found == {"spare": str(tmp_path / "else")}  # whether it is wanted is for the caller to say
    assert load_data({"pets"}, locate({"pets"}, {}))["pets"].names == ("cat", "dog")


def test_a_name_that_is_found_nowhere_is_told_both_ways(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGENET_DATA", str(root))
    assert refusal(lambda: locate({"pet"}, {})) == (
        "data pet: needs its folder, --data pet=PATH, or mergenet data import pet SOURCE; nearest is 'pets'"
    )
    assert refusal(lambda: locate({"pets"}, {"pets": "nowhere"})) == "data pets: no folder nowhere"


def test_a_folder_that_is_no_data_set_says_what_makes_one(tmp_path: Path) -> None:
    assert refusal(lambda: load_data({"x"}, {"x": str(tmp_path)})) == (
        f"data x: {tmp_path} holds no dataset.json; mergenet data import x SOURCE makes such a folder"
    )


def test_bare_cifar10_is_read_as_image_and_label(pets: Images, tmp_path: Path) -> None:
    data_sources.write_hugging_face(tmp_path / "source", pets)
    import_data("pets", tmp_path / "source", tmp_path)
    (tmp_path / "pets" / "dataset.json").unlink()
    found = load_data({"cifar10"}, {"cifar10": str(tmp_path / "pets")})["cifar10"]
    assert (found.digest(), found.classes, found.mean) == (pets.digest(), 10, (0.4914, 0.4822, 0.4465))
    assert found.names[:2] == ("airplane", "automobile")


# --- the commands ------------------------------------------------------------------------------------------------


def test_the_command_offers_every_format() -> None:
    assert ("auto", *FORMATS) == FORMATS_OF_THE_COMMAND


def test_an_import_says_what_there_is_now(mergenet: Mergenet, pets: Images, tmp_path: Path) -> None:
    data_sources.write_hugging_face(tmp_path / "source", pets)
    whole = f"20 training and 10 test images of 3 x 32 x 32 in 2 classes, digest {pets.digest()[:8]}\n"
    assert mergenet("data", "import", "pets", "source") == (0, f"data/pets: {whole}", "")
    assert mergenet("data", "import", "pets", "source") == (0, f"data/pets holds this data already: {whole}", "")
    code, out, _ = mergenet("data", "import", "tiny", "source", "--root", "r", "--size", "8", "--label", "coarse_label")
    assert (code, out.partition(", digest")[0]) == (
        0,
        "r/tiny: 20 training and 10 test images of 3 x 8 x 8 in 1 classes",
    )


def test_what_is_refused_is_one_line_and_writes_nothing(mergenet: Mergenet, pets: Images, tmp_path: Path) -> None:
    data_sources.write_image_folder(tmp_path / "source", pets)
    (tmp_path / "source" / "train" / "cat" / "1.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    for line, start in (
        ("import pets source", "data pets: source/train/cat/1.png: not an image that can be read"),
        ("import pets sourse", "data pets: no file or folder sourse; nearest is 'source'"),
        ("import ../pets source", "data ../pets: a name is up to 100 letters"),
        ("import pets source --size 0", "Invalid value for '--size'"),
        ("import pets source --format zip", "Invalid value for '--format'"),
        ("import pets source --format image-folder --label x", "data pets: --label means nothing for image-folder"),
        ("verify pets", "no data 'pets' in data; there is none"),
    ):
        code, out, err = mergenet("data", *line.split())
        assert (code, out) == (2, "") and err.startswith(f"mergenet: {start}") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_list_shows_imported_bare_and_broken_folders(
    mergenet: Mergenet, root: Path, pets: Images, cifar100_small: Path
) -> None:
    shutil.copytree(cifar100_small, root / "cifar100")
    shutil.copytree(root / "pets", root / "short")
    (root / "short" / "test.parquet").unlink()
    (root / "notes").mkdir()
    shutil.copytree(root / "pets", root / ".pets-x.importing")
    code, out, _ = mergenet("data", "list")
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert rows[0] == ["name", "state", "classes", "train", "test", "size", "digest"]
    assert rows[2] == ["cifar100", "bare", "Parquet", "100", "2,000", "1,000", "3", "x", "32", "x", "32", "-"]
    assert rows[3] == f"pets imported 2 20 10 3 x 32 x 32 {pets.digest()[:8]}".split()
    assert rows[4][0] == "short" and "neither test.parquet" in " ".join(" ".join(row) for row in rows[4:])
    assert {row[0] for row in rows}.isdisjoint({"notes", ".pets-x.importing"})


def test_an_empty_root_says_how_to_fill_it(mergenet: Mergenet) -> None:
    expected = "No data sets in none; mergenet data import NAME SOURCE --root none brings one in.\n"
    for command in ("list", "verify"):
        assert mergenet("data", command, "--root", "none") == (0, expected, "")


def test_whole_data_sets_are_verified_in_a_line_each(
    mergenet: Mergenet, root: Path, pets: Images, cifar100_small: Path
) -> None:
    shutil.copytree(cifar100_small, root / "cifar100")
    code, out, _ = mergenet("data", "verify")
    bare, imported = out.splitlines()
    assert code == 0 and bare.startswith("cifar100: 2000 training and 1000 test images, digest ")
    assert bare.endswith(", none recorded to compare with")
    assert imported == f"pets: 20 training and 10 test images, digest {pets.digest()[:8]}, as recorded"
    assert mergenet("data", "verify", "pets")[1].splitlines() == [imported]


BREAK: dict[str, tuple[Callable[[Path, Images], None], str]] = {
    "a pixel": (
        lambda folder, pets: rewrite(folder / "train.parquet", 3, image=data_sources.png(pets.train.images[4])),
        "holds other pixels or labels than dataset.json says",
    ),
    "a label": (lambda folder, pets: rewrite(folder / "test.parquet", 3, label=0), "holds other pixels or labels"),
    "a label outside": (lambda folder, pets: rewrite(folder / "test.parquet", 3, label=2), "label outside 0 to 1"),
    "no image": (lambda folder, pets: rewrite(folder / "test.parquet", 3, image=b""), "test.parquet row 3: not an"),
    "fewer rows": (
        lambda folder, pets: parquet.write_table(
            parquet.read_table(folder / "test.parquet").slice(1), folder / "test.parquet"
        ),
        "test.parquet holds 9 images, and dataset.json says 10",
    ),
    "no file": (lambda folder, pets: (folder / "train.parquet").unlink(), "holds neither train.parquet nor"),
    "cut short": (
        lambda folder, pets: (folder / "train.parquet").write_bytes((folder / "train.parquet").read_bytes()[:-9]),
        "train.parquet cannot be read (cut short?)",
    ),
    "no map": (lambda folder, pets: (folder / "dataset.json").write_text("[]") and None, "dataset.json holds no map"),
    "half a map": (lambda folder, pets: (folder / "dataset.json").write_text('{"name"') and None, "cannot be read"),
    "of the future": (lambda folder, pets: describe_again(folder, format=2), "format: input should be 1, got 2"),
    "a size of two": (lambda folder, pets: describe_again(folder, size=[32, 32]), "dataset.json: size: "),
}


def describe_again(folder: Path, **changes: object) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("how", BREAK)
def test_what_is_wrong_is_found_by_verify_and_named(mergenet: Mergenet, root: Path, pets: Images, how: str) -> None:
    shutil.copytree(root / "pets", root / "whole")
    change, part = BREAK[how]
    change(root / "pets", pets)
    code, out, err = mergenet("data", "verify")
    assert code == 2 and out.splitlines()[0] == "pets: broken" and out.splitlines()[1].startswith("whole: 20 ")
    assert err.startswith("mergenet: data pets: ") and part in err and err.count("\n") == 1


def test_a_run_on_imported_images_records_their_digest(
    mergenet: Mergenet, root: Path, tmp_path: Path, on_pets: str
) -> None:
    code, _, err = mergenet("train", on_pets, "--device", "cpu", "--data", f"pets={root / 'pets'}")
    assert code == 0, err
    (manifest,) = tmp_path.glob("runs/small/*/manifest.json")
    recorded = json.loads((root / "pets" / "dataset.json").read_text())["digest"]
    assert json.loads(manifest.read_text())["data"]["pets"]["digest"] == recorded


def test_a_run_goes_on_with_its_data_where_they_lay_or_are_said_to_lie(
    mergenet: Mergenet, root: Path, tmp_path: Path, on_pets: str
) -> None:
    there = (root / "pets").rename(tmp_path / "there")  # not where data usually lie
    assert mergenet("train", on_pets, "--device", "cpu", "--data", f"pets={there}")[0] == 0
    (folder,) = tmp_path.glob("runs/small/*")
    assert mergenet("train", "--resume", str(folder))[0] == 0
    there.rename(tmp_path / "moved")
    code, _, err = mergenet("train", "--resume", str(folder))
    assert code == 2 and "pets" in err
    assert mergenet("train", "--resume", str(folder), "--data", f"pets={tmp_path / 'moved'}")[0] == 0
