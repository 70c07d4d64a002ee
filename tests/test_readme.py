"""What the README shows works, and what it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    model = names["model"]
    assert tuple(names["logits"].shape) == (2, 10)
    assert "trains " in capsys.readouterr().out
    assert all(p.grad is None for p in model.backbone.parameters())
    assert any(p.grad is not None for p in model.adapter_set.parameters())


def test_the_file_tree_is_true():
    (tree,) = re.findall(r"## What is where\n\n(.*?)\n\n", README, flags=re.DOTALL)
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith("      "):
            folder = ROOT
        path = folder / name
        assert path.exists(), name
        if name == "src/stadapter/":
            folder = path


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
