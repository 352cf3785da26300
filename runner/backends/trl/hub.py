"""Whether the model a job names is there, told fast and with the way out. Nothing is downloaded.

Left to itself the hub's client tries for half a minute before it says that there is no network.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.backends.trl.model import local_folder, model_and_revision
from runner.spec.errors import Finding

SECONDS = 10.0


def model_findings(name: str) -> Iterator[Finding]:
    """What keeps the model from being loaded: at most one finding."""
    folder = local_folder(name)
    if folder is not None:
        if not (folder / "config.json").is_file():
            yield _wrong(f"{name} is no model folder: it has no config.json.", "Name a folder with a saved model.")
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        yield _wrong(f"there is no folder {name}.", "A path is relative to the job; a hub id is `owner/name`.")
        return
    yield from _hub_findings(name)


def _hub_findings(name: str) -> Iterator[Finding]:
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    model, revision = model_and_revision(name)
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json", revision=revision), timeout=SECONDS)
    except errors.GatedRepoError:
        hint = f"Ask for access on the model's page, then `hf auth login` or set HF_TOKEN. ({model})"
        yield _wrong(f"{model} is gated, and no token here has access to it.", hint, environment=True)
    except errors.RepositoryNotFoundError:
        hint = "Mind the spelling; for a private one, `hf auth login` or set HF_TOKEN."
        yield _wrong(f"the hub has no model {model}, or it is private.", hint)
    except errors.RevisionNotFoundError:
        yield _wrong(f"{model} has no revision {revision}.", "Name a branch, a tag or a commit behind the @.")
    except errors.EntryNotFoundError:
        yield _wrong(f"{model} has no config.json.", "It is no model that transformers can load.")
    except errors.HFValidationError:
        yield _wrong(f"{name} is neither a folder nor a hub id.", "A hub id is `owner/name` or `owner/name@revision`.")
    except Exception as error:  # the client has changed its HTTP library, and with it these classes, more than once
        first = str(error).partition("\n")[0]
        hint = "Connect, or fetch the model beforehand (`hf download`), or name a folder."
        message = f"{model} is not on this machine, and the hub can't be reached ({first})."
        yield _wrong(message, hint, environment=True)


def _wrong(message: str, hint: str, *, environment: bool = False) -> Finding:
    return Finding(code="environment" if environment else "model", field="model", message=message, hint=hint)
