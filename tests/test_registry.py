"""Parts have names: ours, those of installed packages, those that a program registers."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

import edje
from edje import registry
from edje.backbones.protocol import Backbone, TextEncoder, VisionBackbone
from edje.config.locations import conf_folder, register_resolvers
from edje.config.validate import problems_of
from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    adapter_class,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from edje.models.adapters import Adapter, LocalAdapter
from edje.models.adapters.facts import AdapterFacts
from edje.objectives.matching import Matching
from edje.objectives.outputs import Objective
from edje.part_kinds import OF_BACKBONE, PROJECTIONS, TEXT, VISION, lacking_when_built
from tests.tiny.package import make_package
from tests.tiny.rerankers import LOCAL, tiny_checkpoint


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(make_package(tmp_path / "site"))
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.startswith("house_parts")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in registry.OURS for name in registry.OURS[kind]]
)
def test_our_own_parts_have_names(kind: registry.Kind, name: str) -> None:
    part = registry.find(kind, name)
    assert part is not None and part.is_ours and callable(part.load())
    assert registry.short_name(kind, part.target) == name
    assert registry.lasting_name(kind, name) == part.target


def test_an_option_of_ours_names_a_part_that_has_a_name() -> None:
    conf = Path(edje.__file__).parents[1] / "conf"
    for kind, places in (("adapter", "adapter"), ("objective", "objective"), ("backbone",) * 2):
        for path in (conf / places).glob("*.yaml"):
            for line in path.read_text().splitlines():
                if line.strip().startswith("_target_:"):
                    assert registry.ours(kind, line.split(":")[1].strip()), f"{path}: {line}"


def test_registering_imports_no_torch() -> None:
    code = (
        "import sys, edje; from edje import registry;"
        "edje.register_objective('mine')(type('Mine', (), {'__call__': len}));"
        "assert 'mine' in registry.names('objective') and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_decorated_class_is_found_by_both_names() -> None:
    @edje.register_adapter("mine")
    class Mine(LocalAdapter): ...

    target = f"{Mine.__module__}.{Mine.__qualname__}"
    assert adapter_class("mine") is adapter_class(target) is Mine
    assert registry.short_name("adapter", target) == "mine"
    assert registry.find("objective", "mine") is None, "each kind has names of its own"


def test_a_module_that_is_run_again_registers_its_parts_again() -> None:
    for _ in range(2):

        @edje.register_objective("again")
        class Again(Objective):
            def __call__(self, outputs: Any) -> Any: ...

    assert registry.find("objective", "again").load() is Again


def test_a_name_that_is_taken_is_refused_with_both_owners() -> None:
    with pytest.raises(EdjeError, match=r"compression.*taken twice.*TokenCompressionAdapter.*Two"):

        @edje.register_adapter("compression")
        class Two(LocalAdapter): ...

    @edje.register_adapter("mine")
    class One(LocalAdapter): ...

    with pytest.raises(EdjeError, match=r"taken twice: by .*One .*and by .*Other"):

        @edje.register_adapter("mine")
        class Other(LocalAdapter): ...

    assert adapter_class("mine") is One


def test_two_packages_that_take_one_name_are_told_where_it_is_used(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[edje.adapters]\nfirst_tokens = elsewhere:Thing\nlocal = elsewhere:Local\n"
    monkeypatch.syspath_prepend(make_package(tmp_path / "other", points, "other-parts"))
    (tmp_path / "other" / "elsewhere.py").write_text("class Thing: ...\n")
    with pytest.raises(EdjeError, match=r"twice: by .*-parts\) and by .*-parts\)"):
        registry.find("adapter", "first_tokens")
    with pytest.raises(EdjeError, match=r"taken twice: by edje\.models\.adapters\.LocalAdapter"):
        registry.find("adapter", "local")
    assert adapter_class("local") is LocalAdapter, "checkpoints with ours load all the same"


def test_a_part_that_is_both_registered_and_an_entry_point_is_one(installed: Path) -> None:
    points = "[edje.adapters]\nboth = house_parts:Both\n"
    make_package(installed, points)
    decorated = "import edje\nfrom house_parts.adapter import FirstTokens\n"
    decorated += "@edje.register_adapter('both')\nclass Both(FirstTokens): ...\n"
    (installed / "house_parts" / "both.py").write_text(decorated)
    (installed / "house_parts" / "__init__.py").write_text("from house_parts.both import Both\n")
    part = registry.find("adapter", "both")
    assert part.load() is import_module("house_parts").Both
    again = registry.find("adapter", "both")
    assert again.load() is part.load() and again.package == "house-parts"


@pytest.mark.parametrize("name", ["", "a.b", "os.system", "two words", "1st"])
def test_a_name_has_no_dots(name: str) -> None:
    with pytest.raises(EdjeError, match="no dot"):
        edje.register_adapter(name)


class NoForward(Adapter):
    def __init__(self, facts: Any): ...


class NoFacts(Adapter):
    def __init__(self, *, width: int = 1): ...

    def forward(self, tokens: Any) -> Any: ...


class Half:
    def identity(self) -> None: ...


class Forwards(Objective):
    def forward(self, outputs: Any) -> Any: ...


class OfProtocol(Backbone):
    def identity(self) -> Any: ...


@pytest.mark.parametrize(
    ("register", "part", "missing"),
    [
        (edje.register_adapter, print, "it is not a class"),
        (edje.register_adapter, Half, "does not derive from edje.models.adapters.Adapter"),
        (edje.register_adapter, NoForward, r"no forward\(tokens\)"),
        (edje.register_adapter, NoFacts, "takes no facts"),
        (edje.register_objective, Half, "it lacks __call__"),
        (
            edje.register_objective,
            Forwards,
            r"\(Forwards\) is not .*: it lacks __call__\(outputs\)",
        ),
        (edje.register_objective, 3, "neither a class nor a function"),
        (edje.register_backbone, Half, "it lacks preprocess, encode_images"),
        (edje.register_backbone, OfProtocol, "it lacks preprocess, encode_images"),
    ],
)
def test_what_is_no_part_is_told_what_it_lacks(register: Any, part: Any, missing: str) -> None:
    with pytest.raises(EdjeError, match=missing):
        register("part")(part)


def test_what_a_built_part_lacks() -> None:
    assert lacking_when_built("adapter", torch.nn.Linear(1, 1)) is not None
    assert lacking_when_built("objective", lambda outputs: 0) == "it lacks needs, weight"
    assert lacking_when_built("objective", Matching()) is None
    assert "encode_texts" in str(lacking_when_built("backbone", Half()))


def test_a_part_without_its_methods_is_not_built() -> None:
    """A program may give objects of its own, without a name."""
    for cls, method in ((Forwards, "__call__"), (OfProtocol, "encode_images")):
        with pytest.raises(TypeError, match=f"abstract class {cls.__name__} .*{method}"):
            cls()


def test_a_backbone_must_have_what_its_protocol_says() -> None:
    members = {
        name
        for base in (VisionBackbone, TextEncoder, Backbone)
        for name in (*vars(base), *base.__annotations__)
        if not name.startswith("_")
    }
    assert members == set(OF_BACKBONE)
    assert {*VISION, *TEXT, *PROJECTIONS} == {name for name in members if hasattr(Backbone, name)}


def test_an_unknown_name_is_told_the_nearest_and_how_to_register(installed: Path) -> None:
    with pytest.raises(EdjeError, match=r"mean first_tokens\?.*register_adapter.*edje\.adapters"):
        adapter_class("first_token")
    with pytest.raises(EdjeError, match=r"Registered: .*kmeans, linear_pooling"):
        adapter_class("zzz")


def test_a_broken_plugin_is_named_and_harms_nothing_else(installed: Path) -> None:
    assert adapter_class("first_tokens").__name__ == "FirstTokens"
    with pytest.raises(
        EdjeError, match=r'"broken" of the package house-parts: house_parts\.broken.*nobody_has'
    ):
        adapter_class("broken")


def test_an_entry_point_that_is_no_part_is_told_what_it_lacks(installed: Path) -> None:
    make_package(installed, "[edje.adapters]\nodd = house_parts.objective:Shrink\n")
    with pytest.raises(EdjeError, match=r"\(Shrink\) is not a valid adapter: .* not derive from"):
        adapter_class("odd")


def tiny_of(target: str, **choices: Any) -> Any:
    return tiny_checkpoint(AdapterSpecification(target, {"hidden_width": 32, **choices}))


@pytest.mark.parametrize(
    "spelt", ["local", LOCAL.target, "edje.models.adapters.local.LocalAdapter"]
)
def test_a_checkpoint_keeps_the_short_name_however_it_was_spelt(tmp_path: Path, spelt: str) -> None:
    save_checkpoint(tiny_of(spelt), tmp_path / "model.ckpt")
    content = read_checkpoint(tmp_path / "model.ckpt")["edje"]
    assert content["adapter"] == {"target": "local", "choices": {"hidden_width": 32}}
    assert "packages" not in content, "edje's own need none"
    assert type(load_checkpoint(tmp_path / "model.ckpt").model.adapter) is LocalAdapter


def test_a_checkpoint_says_which_package_its_adapter_came_with(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ckpt"
    save_checkpoint(tiny_of("first_tokens", num_tokens=3), path)
    assert load_checkpoint(path).model.adapter.num_tokens == 3
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(installed)])
    with pytest.raises(
        EdjeError, match=r'model\.ckpt: it needs the adapter "first_tokens".*package house-parts'
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "trap.Adapter",
        "edje.durable.os.system",
        "edje.models_of_others.Adapter",
        "edje.models.adapters.local.nn.Linear",
    ],
)
def test_nothing_that_a_checkpoint_names_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.ckpt"
    save_checkpoint(tiny_checkpoint(LOCAL), path)
    content = torch.load(path, weights_only=True)
    content["edje"]["adapter"]["target"] = target
    torch.save(content, path)
    before = set(sys.modules)
    with pytest.raises(EdjeError, match=r"model\.ckpt: .*(not registered|edje has no adapter)"):
        load_checkpoint(path)
    assert "trap" not in set(sys.modules) - before


def test_a_checkpoint_names_no_attention_that_is_fetched_as_code(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_checkpoint(tiny_checkpoint(LOCAL), path)
    content = torch.load(path, weights_only=True)
    content["edje"]["language_model"]["attention"] = "somebody/kernels"
    torch.save(content, path)
    with pytest.raises(EdjeError, match=r"attention=somebody/kernels.*code from a third party"):
        load_checkpoint(path)


def test_the_adapter_of_the_page_works_in_the_run_that_it_is_swept_in(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "parts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (code,) = (block for block in blocks if "class GroupMeans" in block)
    (option,) = re.findall(r"```yaml\n(# your_conf/adapter/group_means.*?)```", page, re.DOTALL)
    own: dict[str, Any] = {"__name__": "your_package"}
    exec(code, own)
    registry.register_adapter("group_means")(own["GroupMeans"])
    save_checkpoint(tiny_of("group_means", num_tokens=3), tmp_path / "model.ckpt")
    assert load_checkpoint(tmp_path / "model.ckpt").model.adapter.num_tokens == 3
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "group_means.yaml").write_text(option)
    register_resolvers()
    search = f"hydra.searchpath=[{tmp_path}]"
    for chosen in (["adapter=group_means", "experiment=shapes_short"], ["adapter._target_=kmeans"]):
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("run", [search, *chosen])
        assert not problems_of(cfg), "\n".join(map(str, problems_of(cfg)))


def forward_giving(give: Callable[[Tensor], Any]) -> type[Adapter]:
    """An adapter of 4 tokens whose forward is that function."""

    class Own(Adapter):
        def __init__(self, facts: AdapterFacts, *, hidden_width: int = 1) -> None:
            super().__init__()
            self.num_tokens = 4
            self.width = facts.width
            self.layer = torch.nn.Linear(facts.token_width, facts.width)

        def forward(self, tokens: Tensor) -> Any:
            return give(self.layer(tokens))

    return Own


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda tokens: tokens, r"returns \(2, \d+, 32\), expected \(2, 4, 32\)"),
        (lambda tokens: tokens[:, :4, :8], r"returns \(2, 4, 8\), expected \(2, 4, 32\)"),
        (lambda tokens: tokens.mean(1), r"returns \(2, 32\), expected \(2, 4, 32\)"),
        (lambda tokens: (tokens,), r"returns a tuple, expected \(2, 4, 32\)"),
        (lambda tokens: tokens @ tokens, r"fails on tokens .*\(2, \d+, \d+\).*: RuntimeError: "),
    ],
)
def test_an_adapter_of_another_shape_is_refused_when_it_is_built(
    give: Callable[[Tensor], Any], said: str
) -> None:
    registry.register_adapter("own")(forward_giving(give))
    with pytest.raises(EdjeError, match=r"^adapter \(Own\): .*" + said):
        tiny_of("own")


def test_looking_at_an_adapter_changes_nothing() -> None:
    registry.register_adapter("own")(forward_giving(lambda tokens: tokens[:, :4]))
    torch.manual_seed(0)
    adapter = tiny_of("own").model.adapter
    drawn = torch.rand(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edje.inference.checkpoint.check_output", lambda *given: None)
        torch.manual_seed(0)
        assert torch.equal(tiny_of("own").model.adapter.layer.weight, adapter.layer.weight)
    assert torch.equal(torch.rand(1), drawn) and adapter.layer.weight.grad is None
