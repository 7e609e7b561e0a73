"""Where a model's files are: a folder of this disk or a repository of the Hugging Face hub, behind one interface."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from t5enc.errors import CheckpointError
from t5enc.options import ModelSource

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Folder(Protocol):
    """Finds files by name, and can say what it is in an error."""

    @property
    def label(self) -> str:
        """What an error calls this folder."""

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies the folder's state, as far as names do."""

    def find(self, name: str) -> Path | None:
        """Path of a file on this disk, fetched if need be; None when there is no such file."""

    def within(self, subfolder: str | None) -> Folder:
        """The folder of that name inside this one; itself for None."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this disk."""

    path: Path

    @property
    def label(self) -> str:
        """The path and the names of what is in it."""
        if not self.path.is_dir():
            return f"{self.path} (no such folder)"
        names = sorted(entry.name for entry in self.path.iterdir())
        shown = ", ".join(names[:12]) or "nothing"
        return f"{self.path} (it holds {shown}{', ...' if len(names) > 12 else ''})"

    @property
    def provenance(self) -> dict[str, str]:
        """The folder itself."""
        return {"folder": str(self.path.absolute())}

    def find(self, name: str) -> Path | None:
        """The file's path, if it is there."""
        path = self.path / name
        return path if path.is_file() else None

    def within(self, subfolder: str | None) -> LocalFolder:
        """A folder inside this one."""
        return LocalFolder(self.path / subfolder) if subfolder else self


@dataclass(slots=True, kw_only=True)
class HubFolder:
    """A repository of the hub, or a folder in it; the first file found pins the commit of all others."""

    repo: str
    revision: str | None = None
    subfolder: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    cache_dir: str | os.PathLike[str] | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """Repository, folder, revision, and whether the hub was asked at all."""
        place = f"{self.repo}/{self.subfolder}" if self.subfolder else self.repo
        return f"{place} on the hub (revision {self.revision or 'main'}{self.note})"

    @property
    def provenance(self) -> dict[str, str]:
        """Repository, commit, and the folder in it."""
        place = {"repository": self.repo, "commit": self.revision or ""}
        return place | ({"subfolder": self.subfolder} if self.subfolder else {})

    def find(self, name: str) -> Path | None:
        """Fetch a file into the hub's cache, unless it is there already."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            path = self._download(name)
        except LocalEntryNotFoundError:
            self.note = f", {self._explain_absence()}"
            return None
        except EntryNotFoundError:
            return None
        except Exception as error:  # what comes from below the hub's client changes with its transport
            raise CheckpointError(f"{self.repo}: {self._explain(error)}") from error
        self.revision = _commit_of(path, self.repo)
        return path

    def _explain_absence(self) -> str:
        """Why only files that are in the hub's cache could be had."""
        from huggingface_hub.constants import is_offline_mode

        if self.local_files_only:
            return "cached files only"
        return "offline: HF_HUB_OFFLINE is set" if is_offline_mode() else "the hub cannot be reached"

    def within(self, subfolder: str | None) -> HubFolder:
        """A folder inside this one, at the commit found so far."""
        if not subfolder:
            return self
        return replace(self, subfolder=f"{self.subfolder}/{subfolder}" if self.subfolder else subfolder)

    def _download(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                self.repo,
                name,
                subfolder=self.subfolder,
                revision=self.revision,
                token=self.token,
                local_files_only=self.local_files_only,
                cache_dir=None if self.cache_dir is None else Path(self.cache_dir),
            )
        )

    def _explain(self, error: Exception) -> str:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, GatedRepoError):
            return f"its owners grant access on https://huggingface.co/{self.repo}; then pass token="
        if isinstance(error, RepositoryNotFoundError):
            return "neither a folder here nor a repository of the hub (a private one needs token=)"
        if isinstance(error, RevisionNotFoundError):
            return f"the repository has no revision {self.revision!r}"
        first_line, _, _ = str(error).strip().partition("\n")
        return f"{type(error).__name__}: {first_line}"


def open_folder(source: ModelSource, *, cache_dir: str | os.PathLike[str] | None = None) -> Folder:
    """A local folder if there is one of that name, else a repository of the hub."""
    path = Path(source.model)
    if path.is_dir():
        return LocalFolder(path)
    if not HUB_ID.fullmatch(source.model):
        raise CheckpointError(f"{source.model}: expected a folder, a .safetensors file or a hub id, got no such path")
    return HubFolder(
        repo=source.model,
        revision=source.revision,
        token=source.token,
        local_files_only=source.local_files_only,
        cache_dir=cache_dir,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model; CheckpointError for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _commit_of(path: Path, repo: str) -> str:
    """The hub's cache is laid out as models--ORG--NAME/snapshots/COMMIT/FILE."""
    parts = path.parts
    return parts[parts.index("models--" + repo.replace("/", "--")) + 2]
