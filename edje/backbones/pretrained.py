"""Loading frozen towers: resolves names, explains what can't be loaded, hashes weights."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoTokenizer

import edje
from edje.errors import EdjeError
from edje.packaged import packaged_source

Loaded = TypeVar("Loaded")


def pretrained_source(pretrained: str) -> str:
    """The local folder that `pretrained` names, or the hub name (and @revision) unchanged.

    A path that starts with `edje/` may also name a folder of the installed package, so that the
    shipped models are found from any working directory. `package:<name>` names the folder of a
    package of weights (`edje.packaged`).

    Raises:
        EdjeError: `pretrained` is clearly a path, but no folder is there; or the package isn't
            the published one.
    """
    if packaged := packaged_source(pretrained):
        return str(packaged)
    folder = Path(pretrained).expanduser()
    shipped = Path(edje.__file__).parent.parent / folder
    if pretrained and folder.is_dir():  # an empty text is no name of the current folder
        return str(folder)
    if folder.parts[:1] == ("edje",) and shipped.is_dir():
        return str(shipped)
    if pretrained.startswith((".", "~", "/")) or len(folder.parts) != 2 or folder.exists():
        kind = "a file" if folder.is_file() else "not there"
        raise EdjeError(
            f"pretrained={pretrained!r} is {kind}; expected a folder written by save_pretrained "
            "(with config.json) or a Hugging Face hub name such as "
            "'google/siglip2-base-patch16-384', with @<revision> behind it if you like. Give the "
            "folder's path."
        )
    return pretrained


def hub_revision(source: str) -> tuple[str, str | None]:
    """A hub name and the revision after its @, None without one; a path is unchanged.

    >>> hub_revision("google/siglip2-base-patch16-384@0123abc")
    ('google/siglip2-base-patch16-384', '0123abc')
    """
    name, at, revision = source.rpartition("@")
    return (name, revision) if at and not Path(source).exists() else (source, None)


def load_pretrained(
    load: Callable[..., Loaded], pretrained: str, what: str, **options: object
) -> Loaded:
    """The result of `load` (a transformers `from_pretrained`) for a folder or hub name.

    Raises:
        EdjeError: the folder or hub repository is missing, incomplete, of an unknown kind, or
            needs a package that isn't installed.
    """
    source, revision = hub_revision(pretrained_source(pretrained))
    if revision is not None:
        options["revision"] = revision
    try:
        return load(source, **options)
    except ImportError as error:
        raise EdjeError(
            f"can't load the {what} of pretrained={pretrained!r}: {_first_line(error)}. "
            "Install it; SigLIP's first generation needs sentencepiece and protobuf: "
            "`pip install 'edje[siglip]'`."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise EdjeError(
            f"can't load the {what} of pretrained={pretrained!r}: {_first_line(error)} "
            "Check the name; without a connection to the hub, give the path of a downloaded "
            "folder (`hf download <name> --local-dir <folder>`)."
        ) from error


def has_file(pretrained: str, name: str) -> bool:
    """Whether a local folder or hub repository has a file; downloads it if necessary.

    When offline, the hub's cache counts as the whole repository.

    Raises:
        EdjeError: the hub can't be reached, and its cache lacks the file.
    """
    source = Path(pretrained_source(pretrained))
    if source.is_dir():
        return (source / name).is_file()

    def download(repository: str, revision: str | None = None) -> bool:
        try:
            hf_hub_download(repository, name, revision=revision)
        except LocalEntryNotFoundError:
            if not constants.HF_HUB_OFFLINE:
                raise  # the file may exist
            return False
        except EntryNotFoundError:
            return False
        return True

    return load_pretrained(download, pretrained, name)


def load_tokenizer(pretrained: str) -> Any:
    """The tokenizer of a folder or hub name.

    Raises:
        EdjeError: there is none; transformers may return an empty one instead.
    """
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, pretrained, "tokenizer")
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise EdjeError(
            f"pretrained={pretrained!r} has no tokenizer: no tokenizer.json, vocab.json or "
            "vocab.txt. Give a folder that holds the tokenizer's files beside the weights."
        )
    return tokenizer


def freeze(module: nn.Module) -> None:
    """Put a module in evaluation mode and disable its gradients."""
    module.eval()
    module.requires_grad_(False)


def weights_digest(module: nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over names, types, shapes and values of the weights."""
    return state_digest(module.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """The `weights_digest` of a module with this state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
