"""Loading frozen towers: resolves names, explains what can't be loaded, hashes weights."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import edje
from edje.errors import EdjeError, first_line
from edje.packaged import packaged_source

Loaded = TypeVar("Loaded")

_DAMAGED = (SafetensorError, UnpicklingError, EOFError)
# What transformers raises for files that it can't read or that contradict one another.
UNREADABLE = (
    *(*_DAMAGED, StrictDataclassError, OSError, RuntimeError, ValueError),
    *(KeyError, TypeError, AttributeError, IndexError),
)
_UNUSED = ("logit_scale", "logit_bias")  # of a loss, which no encoding reads

# Fields of a configuration that change numbers and leave every weight as it is.
_CONFIGURATION = (
    *("hidden_act", "hidden_activation", "activation"),
    *("layer_norm_eps", "norm_eps", "num_attention_heads"),
)
# Captions that tell tokenizers of one vocabulary apart: cases, accents, numbers, rare words.
_CAPTIONS = (
    "A brown dog's puppy runs in the snow!",
    "  Zwölf CAFÉS, 1,234 ½-timbered façades & “antidisestablishmentarianism”",
    "雪の中を走る犬 🐶 #42",
)


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
    named = Path(hub_revision(pretrained)[0])
    if pretrained.startswith((".", "~", "/")) or len(named.parts) != 2 or folder.exists():
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
        return load(source, trust_remote_code=False, **options)
    except ImportError as error:
        raise EdjeError(
            f"can't load the {what} of pretrained={pretrained!r}: {first_line(error)}. "
            "Install it; SigLIP's first generation needs sentencepiece and protobuf: "
            "`pip install 'edje[siglip]'`."
        ) from error
    except UNREADABLE as error:
        raise EdjeError(
            f"can't load the {what} of pretrained={pretrained!r}: {reason(error)} "
            "Check the name; without a connection to the hub, give the path of a downloaded "
            "folder (`hf download <name> --local-dir <folder>`)."
        ) from error


def reason(error: Exception) -> str:
    """Why transformers couldn't load something."""
    if "trust_remote_code" in str(error):
        return (
            "its repository has code of its own, which is never run here. Take a model of a kind "
            "that transformers itself has."
        )
    if isinstance(error, _DAMAGED) or "PytorchStreamReader" in str(error):
        return (
            f"its file can't be read ({type(error).__name__}): it is damaged, a pointer of "
            "git-lfs, or holds more than weights. Download it again."
        )
    return first_line(error, 2 if isinstance(error, StrictDataclassError) else 1)


def load_weights(pretrained: str, **options: object) -> tuple[Any, list[str]]:
    """The model of a folder or hub name, and the names of the pooler's weights if it lacks them.

    Raises:
        EdjeError: it can't be loaded, or its weights aren't all those of its configuration.
    """
    model, report = load_pretrained(
        AutoModel.from_pretrained,
        pretrained,
        "weights",
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported by name below
        **options,
    )
    named = f"pretrained={pretrained!r}"
    return model, check_complete(named, report, model.state_dict())


def check_complete(named: str, report: Mapping[str, Any], needed: Iterable[str]) -> list[str]:
    """Check a report of transformers: weights that a file lacks would be drawn at random.

    Args:
        named: what the message begins with.
        report: of `from_pretrained` with output_loading_info.
        needed: names of the weights that are used; a loss's and a pooler's may be missing.

    Returns:
        The pooler's weights that are missing.

    Raises:
        EdjeError: weights are missing or of another shape.
    """
    if unfitting := sorted(report["mismatched_keys"]):
        name, held, expected = unfitting[0]
        raise EdjeError(
            f"{named}: {len(unfitting)} weights don't fit its config.json, such as {name}: "
            f"{tuple(held)}, expected {tuple(expected)}. Give weights and configuration of one "
            "model."
        )
    missing = sorted({*report["missing_keys"]} & {*needed} - {*_UNUSED})
    poolers = [name for name in missing if name.startswith("pooler.")]
    if lacking := [name for name in missing if name not in poolers]:
        others = sorted(report["unexpected_keys"])
        beside = f"; it has {len(others)} others, such as {others[0]}" if others else ""
        raise EdjeError(
            f"{named}: its file lacks {len(lacking)} weights of the model, such as "
            f"{lacking[0]}{beside}. Give the weights of the whole model, in transformers' format "
            "and names (those of open_clip must be converted)."
        )
    return poolers


def has_file(pretrained: str, name: str) -> bool:
    """Whether a local folder or hub repository has a file; downloads it if necessary.

    When offline, the hub's cache counts as the whole repository. Where the hub can't be reached,
    the cache says which files the repository is known to lack.

    Raises:
        EdjeError: the hub can't be reached, and its cache lacks the file.
    """
    source = Path(pretrained_source(pretrained))
    if source.is_dir():
        return (source / name).is_file()

    def download(repository: str, revision: str | None = None, **_: object) -> bool:
        try:
            hf_hub_download(repository, name, revision=revision)
        except LocalEntryNotFoundError:
            cached = try_to_load_from_cache(repository, name, revision=revision)
            if not constants.HF_HUB_OFFLINE and cached is not _CACHED_NO_EXIST:
                raise  # the file may exist
            return False
        except EntryNotFoundError:
            return False
        return True

    return load_pretrained(download, pretrained, name)


def load_tokenizer(pretrained: str) -> Any:
    """The tokenizer of a folder or hub name.

    Raises:
        EdjeError: there is none (transformers may return an empty one instead), or it has no pad
            token.
    """
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, pretrained, "tokenizer")
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise EdjeError(
            f"pretrained={pretrained!r} has no tokenizer: no tokenizer.json, vocab.json or "
            "vocab.txt. Give a folder that holds the tokenizer's files beside the weights."
        )
    if tokenizer.pad_token_id is None:
        raise EdjeError(
            f"pretrained={pretrained!r}: its tokenizer has no pad token, which captions of "
            "different length need. Set pad_token in its tokenizer_config.json."
        )
    return tokenizer


def configuration_facts(config: Any, *others: str, **further: object) -> str:
    """What a configuration says beside the weights that changes numbers, as JSON.

    `others` are names of more of its fields, `further` are facts by name; None is left out. Only
    named fields are in it, so that it is the same with every version of transformers.
    """
    facts = {name: getattr(config, name, None) for name in (*_CONFIGURATION, *others)} | further
    given = {name: value for name, value in facts.items() if value is not None}
    return json.dumps(given, sort_keys=True)


def tokenizer_digest(tokenizer: Any) -> str:
    """The first 16 hex digits of a SHA-256 over the vocabulary and how some captions are split.

    Its file is not hashed: versions of transformers write the same tokenizer differently.
    """
    ids = [tokenizer(caption, verbose=False)["input_ids"] for caption in _CAPTIONS]
    facts = [sorted(tokenizer.get_vocab().items()), tokenizer.pad_token_id, ids]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


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
