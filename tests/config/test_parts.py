"""Parts by their names in a configuration, and what a saved configuration may name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import edje
from edje import registry
from edje.config.parts import check_named_by_file, resume_command, signature_at
from edje.config.saved import to_text
from edje.errors import EdjeError
from edje.models.adapters import LocalAdapter
from edje.tasks.building import backbone_from, objectives_from
from tests.tiny.package import make_package

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.syspath_prepend(make_package(tmp_path / "site"))
    (tmp_path / "site" / "trap.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "site" / "logs.py").write_text("class Log:\n    def __init__(self): ...\n")
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.startswith("house_parts")]:
        del sys.modules[name]


def test_a_short_name_stands_where_a_dotted_one_does(command: Command, tasks: Calls) -> None:
    assert command("adapter._target_=first_tokens", "adapter.side=right", "seed=2") == 0
    cfg, folder = tasks[-1]
    assert (cfg.adapter._target_, cfg.adapter.side) == ("first_tokens", "right")
    assert "_target_: first_tokens" in (folder / "config.yaml").read_text()


def test_ours_go_by_short_names_and_are_kept_by_their_dotted_ones(
    command: Command, tasks: Calls
) -> None:
    assert command("adapter._target_=kmeans") == 0
    assert tasks[-1][0].adapter._target_ == "edje.models.adapters.KMeansAdapter"


def test_a_registered_part_is_kept_by_its_short_name(command: Command, tasks: Calls) -> None:
    names = ("adapter._target_=house_parts.adapter.FirstTokens",)
    objective = ("objective.small._target_=house_parts.objective.Shrink",)
    assert command(*names, *objective) == 0
    cfg = tasks[-1][0]
    assert (cfg.adapter._target_, cfg.objective.small._target_) == ("first_tokens", "shrink")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["adapter._target_=first_tokens", "adapter.num_token=8"],
            "adapter.num_token=8 is unknown: first_tokens takes hidden_width, num_tokens, side. "
            "Did you mean adapter.num_tokens?",
        ),
        (
            ["adapter._target_=first_tokens", "adapter.side=up"],
            "adapter.side=up (str): expected one of left, right.",
        ),
        (
            ["adapter._target_=first_tokens", "adapter.facts=1"],
            "adapter.facts=1 can't be set: the run itself supplies it",
        ),
        (
            ["objective.small._target_=shrink", "objective.small.power=half"],
            "objective.small.power=half (str): expected int.",
        ),
        (["adapter._target_=first_token"], "Did you mean first_tokens?"),
        (["objective.small._target_=first_tokens"], "no objective is registered under this name."),
        (["backbone.vision._target_=seem"], "Did you mean seen?"),
        (["adapter._target_=trap.Adapter"], '@edje.register_adapter("<name>")'),
        (["data._target_=shrink"], "expected a dotted name"),
        (
            ["adapter._target_=broken"],
            "house_parts.broken.Thing can't be imported (ModuleNotFoundError: "
            "No module named 'a_library_that_nobody_has')",
        ),
    ],
)
def test_a_mistake_in_a_part_of_ones_own_is_told_as_in_ours(
    command: Command,
    tasks: Calls,
    installed: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    source = installed / "house_parts" / "broken.py"
    source.write_text(source.read_text().replace("class Thing: ...", "Thing = made()"))
    assert command(*arguments) == 1
    assert expected in capsys.readouterr().err
    assert not tasks


def test_the_signature_of_a_packages_part_is_read_without_importing_it(installed: Path) -> None:
    code = (
        "import sys; from edje.config.parts import signature_at;"
        "read = signature_at('adapter', 'first_tokens');"
        "assert read.settable() == ['hidden_width', 'num_tokens', 'side'], read;"
        "assert read.parameters['num_tokens'].required and not read.is_open;"
        "assert not {'torch', 'house_parts'} & set(sys.modules)"
    )
    path = [str(installed), *filter(None, sys.path)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}"]
    subprocess.run(command, check=True, timeout=60)


def test_positional_parameters_of_ones_own_part_can_be_set() -> None:
    @edje.register_adapter("loose")
    class Loose(LocalAdapter):
        def __init__(self, facts: Any, num_tokens: int, width: int = 3):
            super().__init__(facts)

    signature = signature_at("adapter", "loose")
    assert signature.settable() == ["num_tokens", "width"]
    assert [p.required for p in signature.parameters.values()] == [False, True, False]


def test_objects_are_built_by_any_name() -> None:
    made = objectives_from({"small": {"_target_": "shrink", "power": 3}, "absent": None})
    assert list(made) == ["small"] and made["small"].power == 3
    ours = objectives_from({"match": {"_target_": "matching", "form": "binary"}})
    assert ours["match"].form == "binary"
    root = OmegaConf.create({"more": 4, "objective": {"s": {"_target_": "shrink"}}})
    root.objective.s.power = "${more}"
    assert objectives_from(root.objective)["s"].power == 4


def test_what_is_built_must_be_a_part_of_its_kind() -> None:
    with pytest.raises(EdjeError, match=r"objective\.odd\._target_=logs\.Log: .*lacks needs"):
        objectives_from({"odd": {"_target_": "logs.Log"}})
    with pytest.raises(EdjeError, match=r"backbone\._target_=logs\.Log: .*encode_images"):
        backbone_from({"_target_": "logs.Log"})


@pytest.fixture
def trained(command: Command, tasks: Calls) -> Callable[..., Path]:
    """A run folder as training leaves it, whose configuration is then changed by values."""

    def make(**changes: Any) -> Path:
        assert command("name=photos", "trainer.max_steps=7") == 0
        cfg, folder = tasks.pop()
        cfg = OmegaConf.create(OmegaConf.to_container(cfg))
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
        (folder / "checkpoints").mkdir()
        text = OmegaConf.to_yaml(cfg) if "${" in str(changes) else to_text(cfg)
        packages = {"gone": "gone-parts"}
        content = {"state_dict": {}, "edje": {"packages": packages}, "edje_config": text}
        torch.save(content, folder / "checkpoints" / "last.ckpt")
        (folder / "config.yaml").write_text(text)
        return folder

    return make


SYSTEM = {"_target_": "os.system", "command": "exit 3"}


@pytest.mark.parametrize(
    ("place", "node"),
    [
        ("data", SYSTEM),
        ("backbone", SYSTEM),
        ("backbone__vision", {"_target_": "trap.Tower"}),
        ("adapter", SYSTEM),
        ("objective__matching", SYSTEM),
        ("objective__more", {"_target_": "trap.Term"}),
        ("joint", {"_target_": "trap.Words"}),
        ("loader", SYSTEM),
        ("joint__values", [1, {"_target_": "trap.Value"}]),
        ("data", "${oc.decode:'{_target_: os.system, command: exit}'}"),
        ("data", {"_target_": "${name}.Data"}),
        ("data", {"_target_": "edje.config.run_folder.os.system"}),
        ("data", {"_target_": "edje.config.run_folder.contextmanager"}),
        ("data", {"_target_": "lightning.pytorch.loggers.os.system"}),
        ("data__root", {"_target_": "edje.config.run_folder.git", "_args_": ["status"]}),
    ],
)
def test_a_file_names_no_code_but_ours(place: str, node: Any) -> None:
    present = OmegaConf.create({"name": "trap", "data": {"_target_": "edje.sample_parts.Data"}})
    saved = OmegaConf.create({"name": "trap"})
    key = place.replace("__", ".")
    OmegaConf.update(saved, key, node, force_add=True)
    with pytest.raises(EdjeError, match=rf"^resume=x: {key}.*A file must not name other code"):
        check_named_by_file(saved, present, "resume=x", dict)
    given = OmegaConf.merge(present, saved)  # on the command line it is allowed
    check_named_by_file(saved, given, "resume=x", dict)
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "edje.data.sources.folder.FolderSource",
        "edje.data.sources.folder.Nothing",  # which the check of signatures refuses
        "edje.language_model.new_language_model",
        "lightning.Trainer",
        "lightning.pytorch.strategies.DDPStrategy",
    ],
)
def test_a_file_may_name_what_is_ours_and_what_trains(target: str) -> None:
    saved = OmegaConf.create({"part": {"_target_": target}})
    check_named_by_file(saved, OmegaConf.create(), "resume=x", dict)


@pytest.mark.parametrize("way", ["checkpoint", "resume"])
def test_a_run_goes_by_no_code_that_its_checkpoint_or_folder_names(
    command: Command,
    tasks: Calls,
    trained: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    folder = trained(backbone=SYSTEM)
    assert command("task=evaluate", f"{way}={folder}") == 1
    error = capsys.readouterr().err
    assert f"{way}={folder}: backbone._target_=os.system is neither edje's nor given" in error
    assert "If you trust it, add backbone._target_=os.system." in error
    assert not tasks


@pytest.mark.parametrize("way", ["checkpoint", "resume"])
def test_a_data_source_of_ones_own_is_named_again(
    command: Command, tasks: Calls, trained: Callable[..., Path], way: str
) -> None:
    arguments = ("task=evaluate", f"{way}={trained(data={'_target_': 'textwrap.dedent'})}")
    assert command(*arguments, "data.text=x") == 1
    assert command(*arguments, "data._target_=textwrap.dedent", "data.text=x") == 0
    assert tasks[-1][0].data._target_ == "textwrap.dedent"


def test_what_the_command_line_names_too_may_stand_in_the_file(
    command: Command, tasks: Calls, trained: Callable[..., Path]
) -> None:
    folder = trained(logger={"_target_": "logs.Log"})
    assert command(f"resume={folder}") == 1
    assert command(f"resume={folder}", "logger._target_=logs.Log") == 0
    assert tasks[-1][0].logger._target_ == "logs.Log"


@pytest.mark.parametrize(
    "target", ["lightning.pytorch.loggers.TensorBoardLogger", "edje.sample_parts.Part"]
)
def test_a_logger_of_lightning_or_a_part_of_ours_stays_in_a_resumed_run(
    command: Command, trained: Callable[..., Path], target: str
) -> None:
    node = {"_target_": target} | ({"save_dir": "here"} if "lightning" in target else {})
    assert command(f"resume={trained(logger=node)}") == 0


@pytest.mark.parametrize(
    ("started", "command"), [("run.py", "python run.py"), ("/bin/edje", "edje"), ("own.py", "edje")]
)
def test_the_command_that_continues_a_run_names_the_code_that_its_folder_may_not(
    started: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    nodes = {"data": "edje.data.sources.folder.FolderSource", "logger": "logs.Log"}
    nodes |= {"adapter": "first_tokens", "trainer": "lightning.Trainer"}
    cfg = OmegaConf.create({key: {"_target_": target} for key, target in nodes.items()})
    assert resume_command(cfg, Path("x")) == f"{command} resume=x logger._target_=logs.Log"


def test_a_checkpoint_says_which_package_a_part_of_its_configuration_came_with(
    command: Command, trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(backbone__vision={"_target_": "gone"})
    assert command("task=evaluate", f"checkpoint={folder}") == 1
    error = capsys.readouterr().err
    assert f'checkpoint={folder}: it needs the backbone "gone"' in error
    assert "the package gone-parts" in error


def test_a_term_of_the_loss_that_is_gone_is_missed_by_training_alone(
    command: Command,
    tasks: Calls,
    trained: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained(objective__more={"_target_": "gone", "weight": 1})
    assert command("task=evaluate", f"checkpoint={folder}") == 0
    assert tasks[-1][0].objective.more is None
    assert command(f"resume={folder}") == 1
    assert 'needs the objective "gone"' in capsys.readouterr().err


def test_negatives_and_terms_of_ones_own_code_are_missed_by_training_alone(
    command: Command,
    tasks: Calls,
    trained: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rule, term = ({"_target_": f"trap.{name}"} for name in ("Rule", "Term"))
    folder = trained(negatives=rule, objective__more=term)
    assert command("task=evaluate", f"checkpoint={folder}") == 0
    cfg = tasks[-1][0]
    assert cfg.negatives is None and cfg.objective.more is None
    assert command(f"resume={folder}") == 1
    error = capsys.readouterr().err
    both = "objective.more._target_=trap.Term negatives._target_=trap.Rule"
    assert f"If you trust them, add {both}." in error
    assert "trap" not in sys.modules


def test_negatives_that_the_command_line_names_again_stay(
    command: Command, tasks: Calls, trained: Callable[..., Path]
) -> None:
    folder = trained(negatives={"_target_": "logs.Log"})
    named = "negatives._target_=logs.Log"
    assert command("task=evaluate", f"checkpoint={folder}", named) == 0
    assert tasks[-1][0].negatives._target_ == "logs.Log"


def test_parts_of_ones_own_stay_in_a_checkpoints_configuration(
    command: Command, tasks: Calls, trained: Callable[..., Path]
) -> None:
    node = {"_target_": "first_tokens", "num_tokens": 2}
    folder = trained(adapter=node, objective__more={"_target_": "shrink"})
    assert command("task=evaluate", f"checkpoint={folder}") == 0
    cfg = tasks[-1][0]
    assert (cfg.adapter._target_, cfg.objective.more._target_) == ("first_tokens", "shrink")


def test_a_registered_part_without_an_option_file_is_told_what_lacks(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("adapter=first_tokens") == 1
    said = capsys.readouterr().err
    assert "first_tokens is registered, but has no option file. Write adapter/first_tokens" in said
    assert "--config-dir" in said
