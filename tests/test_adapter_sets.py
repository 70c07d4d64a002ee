"""Several tasks on one resident backbone: loading, switching, deleting."""

import pytest
import torch

from stadapter import FullFinetuneConfig, LinearProbeConfig, STAdapterConfig, create_model
from stadapter.checkpoint import AdapterMismatchError
from stadapter.data import LabelSpace
from stadapter.methods import TaskInfo
from stadapter.model import VideoClassifier


def trained(num_classes: int, seed: int, backbone="tiny", **settings) -> VideoClassifier:
    """A model whose adapters do something."""
    torch.manual_seed(seed)
    model = create_model(
        backbone, num_classes=num_classes, pretrained=False, method=STAdapterConfig(**settings)
    )
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.normal_(std=0.05)
    names = [f"{seed}-{k}" for k in range(num_classes)]
    model.adapter_set.info = TaskInfo(LabelSpace.single_label(names))
    return model.eval()


@pytest.fixture
def two_tasks(tmp_path):
    sports, cooking = trained(3, 1, width=16), trained(5, 2, width=8, sites=("mlp",))
    sports.save_pretrained(tmp_path / "sports")
    cooking.save_pretrained(tmp_path / "cooking")
    return tmp_path, sports, cooking


def test_each_task_gives_its_own_logits_bit_for_bit(two_tasks):
    folder, sports, cooking = two_tasks
    video = torch.randn(2, 4, 3, 64, 64)
    model = VideoClassifier.from_pretrained(folder / "sports")
    before = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    model.load_adapter(folder / "cooking", name="cooking")
    assert model.adapters == ("default", "cooking")
    assert model.active_adapter == "default"
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(video), sports(video))
            model.set_adapter("cooking")
            assert torch.equal(model(video), cooking(video))
            assert model.adapter_set.info.class_names == cooking.adapter_set.info.class_names
            model.set_adapter("default")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_vit_b_sized_model_switches_between_two_adapters(tmp_path):
    name = "timm/vit_base_patch16_clip_quickgelu_224.openai"
    first = trained(400, 1, name, sites=("mlp",))
    with torch.no_grad():
        video = torch.randn(1, 2, 3, 32, 32)
        wanted = first(video)
        first.save_pretrained(tmp_path / "first")
        second = VideoClassifier(
            first.backbone, STAdapterConfig().build(first.backbone, 174)
        ).eval()
        second.save_pretrained(tmp_path / "second")
        first.load_adapter(tmp_path / "second", name="second")
        first.load_adapter(tmp_path / "first", name="again")
        first.set_adapter("second")
        assert torch.equal(first(video), second(video))
        first.set_adapter("again")
        assert torch.equal(first(video), wanted)


def test_only_the_active_set_trains_and_counts(two_tasks):
    folder, sports, _ = two_tasks
    model = VideoClassifier.from_pretrained(folder / "sports")
    model.load_adapter(folder / "cooking", name="cooking")
    assert model.num_parameters() == sports.num_parameters()
    model.set_adapter("cooking")
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    assert training == {
        name for name, _ in model.named_parameters() if name.startswith("adapter_sets.cooking.")
    }


def test_a_set_follows_train_and_eval(two_tasks):
    folder, _, _ = two_tasks
    model = VideoClassifier.from_pretrained(folder / "sports")
    model.load_adapter(folder / "cooking", name="cooking")
    assert not model.adapter_sets["cooking"].training
    model.train()
    model.set_adapter("cooking")
    assert model.adapter_set.training and not model.backbone.training


def test_delete_adapter(two_tasks):
    folder, _, _ = two_tasks
    model = VideoClassifier.from_pretrained(folder / "sports")
    model.load_adapter(folder / "cooking", name="cooking")
    with pytest.raises(ValueError, match="active"):
        model.delete_adapter("default")
    model.delete_adapter("cooking")
    assert model.adapters == ("default",)
    with pytest.raises(ValueError, match="no adapter 'cooking'; loaded are default"):
        model.set_adapter("cooking")
    model.load_adapter(folder / "cooking", name="cooking")  # the name is free again


@pytest.mark.parametrize("name", ["", "a.b", "keys", "default"])
def test_impossible_names_are_refused(two_tasks, name):
    folder, _, _ = two_tasks
    model = VideoClassifier.from_pretrained(folder / "sports")
    with pytest.raises(ValueError, match="adapter"):
        model.load_adapter(folder / "cooking", name=name)
    assert model.adapters == ("default",)


def test_an_adapter_of_another_backbone_is_refused_and_nothing_changes(two_tasks, tmp_path):
    folder, _, _ = two_tasks
    other = create_model("tiny", num_classes=2, method=LinearProbeConfig())  # packaged weights
    other.save_pretrained(tmp_path / "other")
    model = VideoClassifier.from_pretrained(folder / "sports")
    with pytest.raises(AdapterMismatchError) as raised:
        model.load_adapter(tmp_path / "other", name="other")
    assert [d for d in raised.value.differences if "frozen weights" in d]
    assert model.adapters == ("default",)
    model.load_adapter(tmp_path / "other", name="other", any_fingerprint=True)


def test_a_method_that_changes_the_backbone_does_not_share_it(two_tasks, tmp_path):
    folder, _, _ = two_tasks
    tuned = create_model("tiny", num_classes=2, pretrained=False, method=FullFinetuneConfig())
    tuned.save_pretrained(tmp_path / "tuned")
    model = VideoClassifier.from_pretrained(folder / "sports")
    weights = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    with pytest.raises(ValueError, match="cannot share"):
        model.load_adapter(tmp_path / "tuned", name="tuned")
    with pytest.raises(ValueError, match="cannot share"):
        tuned.load_adapter(folder / "sports", name="sports")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_the_model_card_says_what_it_is(two_tasks):
    folder, sports, _ = two_tasks
    card = (folder / "sports" / "README.md").read_text(encoding="utf-8")
    total, trained_count = sports.num_parameters()
    assert card.startswith("---\nlibrary_name: stadapter\n")
    assert f"{trained_count:,} trained parameters of {total:,}" in card
    assert "1-0, 1-1, 1-2" in card


def test_somebody_elses_readme_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("my notes")
    trained(2, 1, width=4).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_a_mistyped_run_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="runs/typo holds no adapter"):
        VideoClassifier.from_pretrained("runs/typo")


def test_a_name_that_is_no_folder_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        VideoClassifier.from_pretrained("no/such/folder")
