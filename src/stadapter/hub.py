"""Adapters on the Hugging Face Hub, by the Hub's own conventions, and their model card.

A repository holds what a local folder holds: `adapter_model.safetensors`, `adapter_config.json` and
README.md. Local folders never touch the network.
"""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from stadapter.atomic import write_text
from stadapter.checkpoint import CONFIG, TENSORS, AdapterConfig

CARD = "README.md"
_FIRST_LINES = "---\nlibrary_name: stadapter\n"


def resolve(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder as it is; otherwise the Hub repository ORG/NAME, downloaded once.

    Raises:
        FileNotFoundError: neither a folder here nor a repository that can be reached.
    """
    path = Path(name)
    local = path.parent.is_dir() and path.parent != Path()  # "runs/typo" is no repository
    if path.is_dir() or local or str(name).count("/") != 1:
        return path
    try:
        folder = snapshot_download(
            str(name), revision=revision, token=token, allow_patterns=[CONFIG, TENSORS, CARD]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name} is no folder here, and could not be fetched from the Hub: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    return Path(folder)


def upload(
    folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Create the repository if need be and upload the adapter files; returns its address.

    Raises:
        OSError: the Hub refused, or cannot be reached.
    """
    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=[CONFIG, TENSORS, CARD])
    return str(address)


def model_card(config: AdapterConfig, *, total: int, trained: int) -> str:
    """README.md for an adapter: what it is, how to use it, what it reached."""
    info, sampling, pixels = config.info, config.info.sampling, config.info.preprocessing
    stride = sampling.get("frame_stride")
    spread = "spread over the video" if stride is None else f"{stride} apart"
    lines = [
        *_FIRST_LINES.splitlines(),
        "pipeline_tag: video-classification",
        "tags: [video-classification, st-adapter, peft]",
        "---",
        "",
        f"# {config.method.name} on {config.backbone_id}",
        "",
        f"A video classifier for {info.space.summary()}: the frozen image transformer "
        f"`{config.backbone_id}` with {trained:,} trained parameters of {total:,} "
        f"({trained / total:.1%}).",
        "",
        "```python",
        "import stadapter",
        "",
        'stadapter.Predictor("THIS_FOLDER_OR_REPOSITORY").predict(["clip.mp4"])',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| frozen weights | fingerprint `{config.backbone_fingerprint[:16]}` |",
        f"| frames | {sampling.get('num_frames', 'not recorded')}, {spread} |",
        f"| resolution | {' x '.join(map(str, pixels.get('resolution', ['not recorded'])))} |",
        *(f"| {name} | {_shown(value)} |" for name, value in info.scores.items()),
        "",
        *(
            f"{kind.capitalize()}: {', '.join(names)}."
            for kind, names in info.space.named_vocabularies().items()
        ),
        "",
    ]
    return "\n".join(lines)


def write_card(folder: Path, card: str) -> None:
    """Write README.md, unless somebody else's stands there."""
    path = folder / CARD
    if not path.exists() or is_model_card(path):
        write_text(path, card)


def is_model_card(path: Path) -> bool:
    """Whether this file was made by `model_card`."""
    return path.is_file() and path.read_bytes().startswith(_FIRST_LINES.encode())


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
