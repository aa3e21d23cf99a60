"""torchvision's own weights by their names, from the folder where torch.hub keeps them."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision

from mergenet.config import InputError, nearest
from mergenet.models import published_names


def published_weights(model_name: str, weights: str) -> Path:
    """The file of the weights that torchvision calls `weights`, downloaded unless it is there already.

    Raises:
        InputError: no such weights of that model, a download that failed, a file that is not what its name says.
    """
    url = _url(model_name, weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    named = torch.hub.HASH_REGEX.search(path.name)
    prefix = named.group(1) if named else ""
    if not path.exists():
        _download(url, path, prefix)
    if not sha256_of(path).startswith(prefix):
        raise InputError(f"weights {path}: its SHA-256 does not begin with {prefix}, as its name says; remove it")
    return path


def _url(model_name: str, weights: str) -> str:
    if model_name not in published_names():
        raise InputError(f"weights {weights}: no such file, and torchvision has no weights for '{model_name}'")
    known = torchvision.models.get_model_weights(model_name).__members__
    if weights not in known:
        near = nearest(weights, known)
        raise InputError(f"weights {weights}: no such file, nor weights of torchvision's {model_name}; {near}")
    return str(known[weights].url)


def _download(url: str, path: Path, prefix: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(f"weights {path}: not there, and {url} cannot be downloaded: {error}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
