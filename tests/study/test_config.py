"""What a study's YAML may say; what it may not is said in a sentence."""

import pytest

from stadapter.cli.recipe_flags import recipe_from
from stadapter.methods import METHODS
from stadapter.study import StudyConfig, find_study, read_study
from stadapter.study.plan import make_plan, value_text

STUDY = """
recipe: {train: {epochs: 4, lr: 1e-3}, sampling: {num_frames: 4}}
methods:
  linear_probe:
  small: {method: {name: st_adapter, width: 8}, train: {lr: 0.5}}
seeds: [0, 7]
fractions: [0.25, 0.5]
epochs: {values: [2, 4], methods: [small]}
ablations:
  of: small
  vary:
    width: [4, 8]
    sites: [[attention]]
    train.batch_size: [2]
"""


def study(text: str = STUDY) -> StudyConfig:
    return read_study(text, "study.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no study"),
        ("[1]", "holds no study"),
        ("methods: {", "no YAML"),
        ("methods: {}", "at least one name"),
        ("method: {linear_probe: }", "unknown 'method'; known are methods, every_method, title"),
        ("methods: {a: 1}", "methods.a .1. must map"),
        ("methods: {a/b: }", "'a/b' must be of letters"),
        ("methods: {'': }", "must be of letters"),
        ("methods:\n  a:\n  a:", "'a' stands there twice .line 3."),
        ("methods: {a: {train: {seed: 1}}}", "seeds of a study"),
        ("methods: {a: }\nseeds: []", "seeds"),
        ("methods: {a: }\nseeds: [0, 0]", "0 stands there twice"),
        ("methods: {a: }\nseeds: [-1]", "0 or above"),
        ("methods: {a: }\nfractions: [0]", "above 0 to 1"),
        ("methods: {a: }\nfractions: [1.5]", "above 0 to 1"),
        ("methods: {a: }\nfractions: {value: [1]}", "unknown 'value'"),
        ("methods: {a: }\nepochs: [2.5]", "whole numbers"),
        ("methods: {a: }\nepochs: {values: [2], same_steps: true}", "unknown 'same_steps'"),
        ("methods: {a: }\nepochs: {values: [2], methods: [b]}", "'b' is no entry of methods"),
        ("methods: {a: }\nablations: {of: b}", "'b' is no entry"),
        ("methods: {a: }\nablations: {of: a, vary: {width: 4}}", "must be a list"),
        ("methods: {a: }\ndata: x\ntwo_cues: {seed: 1}", "exclude each other"),
        ("methods: {a: }\ntwo_cues: {sed: 1}", "unknown 'sed'"),
        ("methods: {a: }\ntwo_cues: {grounds: [pink]}", "must be some of red_ground"),
        ("methods: {a: }\nreading: {formt: csv}", "unknown 'formt'"),
        ("methods: {a: }\nreading: {train_fraction: 0.5}", "stand in `fractions`"),
        ("methods: {a: }\nclass_groups: {x: [a, a]}", "'a' stands there twice"),
        ("methods: {a: }\nnum_processes: 0", "at least 1"),
        ("methods: {a: }\nevery_method: {but: [nothing]}", "unknown method 'nothing'"),
        ("methods: {a: }\nevery_method: {width: 3}", "unknown 'width'; known are settings, but"),
        ("methods: {a: }\nevery_method: {settings: {method: {name: x}}}", "every method's own"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        study(text)
    assert "study.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ("{nothing: }", "'nothing' is none; known are st_adapter"),
        ("{nothing: {method: {width: 3}}}", "has no name; known are"),
        ("{a: {method: linear_prob}}", "methods.a: unknown method 'linear_prob'"),
        ("{st_adapter: {trian: {epochs: 3}}}", "methods.st_adapter: .*trian"),
        ("{st_adapter: {method: {widht: 3}}}", "methods.st_adapter: .*widht"),
        ("{st_adapter: {train: {epochs: none}}}", "methods.st_adapter: .*epochs"),
        ("{st_adapter: {train: 3}}", "methods.st_adapter: "),
        ("{st_adapter: {method: {width: -3}}}", r"methods.st_adapter: width \(-3\)"),
    ],
)
def test_settings_that_no_recipe_has_are_refused(methods: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_plan(study(f"methods: {methods}"), recipe_from)


def test_a_setting_of_an_ablation_is_named_when_it_is_wrong() -> None:
    text = STUDY.replace("sites: [[attention]]", "sites: [[neck]]")
    with pytest.raises(ValueError, match=r"ablations.vary.sites: \['neck'\]"):
        make_plan(study(text), recipe_from)


def test_the_runs_of_a_study() -> None:
    plan = make_plan(study(), recipe_from)
    assert list(plan.cells) == [
        "linear_probe",
        "small",
        "linear_probe_train_fraction=0.25",
        "linear_probe_train_fraction=0.5",
        "small_train_fraction=0.25",
        "small_train_fraction=0.5",
        "small_epochs=2",
        "small_width=4",
        "small_sites=attention",
        "small_train.batch_size=2",
    ]
    assert len(plan.runs) == 20
    assert {run.name for run in plan.runs} == {
        f"{cell}_seed={seed}" for cell in plan.cells for seed in (0, 7)
    }
    for run in plan.runs:
        assert run.recipe.train.seed == run.seed
    # The entry itself stands in each comparison, and is one and the same cell.
    base = plan.cells["small"]
    assert plan.fractions["small"]["1"] is base
    assert plan.epochs["small"]["4"] is base
    assert plan.ablations["width"] == {"4": plan.cells["small_width=4"], "8": base}
    assert plan.ablations["sites"]["attention,mlp"] is base
    assert plan.ablations["train.batch_size"]["16"] is base


def test_fractions_of_the_clips_can_make_as_many_steps() -> None:
    text = STUDY.replace("fractions: [0.25, 0.5]", "fractions: {values: [0.25], same_steps: true}")
    cells = make_plan(study(text), recipe_from).cells
    few, all_ = cells["small_train_fraction=0.25"], cells["small"]
    assert few.recipe.train.epochs == 4 * all_.recipe.train.epochs
    assert few.recipe.train.warmup_epochs == 4 * all_.recipe.train.warmup_epochs
    assert few.work == all_.work


def test_settings_of_an_entry_lie_over_those_of_every_run() -> None:
    cells = make_plan(study(), recipe_from).cells
    assert cells["small"].recipe.train.lr == 0.5
    assert cells["linear_probe"].recipe.train.lr == 1e-3
    assert cells["small_width=4"].recipe.train.lr == 0.5
    assert cells["small_width=4"].recipe.to_dict()["method"]["width"] == 4
    assert {cell.recipe.sampling.num_frames for cell in cells.values()} == {4}
    assert cells["small_epochs=2"].recipe.train.epochs == 2
    assert cells["small_train_fraction=0.25"].train_fraction == 0.25


def test_every_method_that_is_not_there_yet() -> None:
    text = """
    methods: {ours: {method: {name: st_adapter, width: 8}}}
    every_method: {settings: {method: {dropout: 0.25, width: 4}}, but: [linear_probe]}
    """
    plan = make_plan(study(text), recipe_from)
    assert [c.name for c in plan.entries] == [
        "ours",
        *(name for name in METHODS if name not in ("st_adapter", "linear_probe")),
    ]
    settings = {c.name: c.recipe.to_dict()["method"] for c in plan.entries}
    assert settings["full_finetune"]["dropout"] == 0.25  # and it has no width
    assert settings["ours"]["width"] == 8
    with pytest.raises(ValueError, match="give that entry another name"):
        make_plan(study(text.replace("ours:", "full_finetune:")), recipe_from)


def test_another_method_brings_its_own_settings() -> None:
    text = "recipe: {method: {name: st_adapter, width: 8}}\nmethods: {a: , b: {method: {name: "
    cells = make_plan(study(text + "linear_probe, dropout: 0.1}}}"), recipe_from).cells
    assert cells["a"].recipe.to_dict()["method"]["width"] == 8
    assert cells["b"].recipe.to_dict()["method"] == {"name": "linear_probe", "dropout": 0.1}


def test_names_do_not_change_when_a_study_grows() -> None:
    before = make_plan(study(), recipe_from)
    grown = STUDY.replace(
        "methods:\n  linear_probe:", "methods:\n  full_finetune:\n  linear_probe:"
    )
    grown = grown.replace("seeds: [0, 7]", "seeds: [3, 0, 7]").replace("[0.25, 0.5]", "[0.1, 0.5]")
    after = make_plan(study(grown), recipe_from)
    recipes = {run.name: run.recipe for run in after.runs}
    for run in before.runs:
        if run.cell.train_fraction != 0.25:
            assert recipes[run.name] == run.recipe


def test_values_are_fit_for_folders() -> None:
    text = "methods: {a: {method: linear_probe}}\nablations: {of: a, vary: {backbone: [timm/x_1]}}"
    plan = make_plan(study(text), recipe_from)
    assert list(plan.cells) == ["a", "a_backbone=timm%2Fx_1"]
    assert value_text([[3, 1], None]) == "3,1,none"


@pytest.mark.parametrize("name", ["quick", "paper", "studies/quick.yaml"])
def test_our_own_studies_can_be_planned(name: str) -> None:
    config, text = find_study(name)
    plan = make_plan(config, recipe_from)
    assert plan.fractions and plan.epochs and len(plan.entries) >= 3
    assert {"kernel_size", "width", "sites", "last_blocks", "activation"} <= set(plan.ablations)
    assert text.startswith("#")


def test_the_study_of_small_data_has_every_method() -> None:
    config, text = find_study("small_data")
    plan = make_plan(config, recipe_from)
    methods = {cell.recipe.method.name for cell in plan.entries}
    assert methods == set(METHODS) - {"peft"}  # whose default is the same as lora
    assert len(plan.seeds) == 3
    assert text.startswith("#")


def test_a_study_that_is_nowhere() -> None:
    with pytest.raises(FileNotFoundError, match="those are paper, quick, small_data"):
        find_study("elsewhere/quick.yaml")
    with pytest.raises(FileNotFoundError, match="study slow is no file"):
        find_study("slow")
