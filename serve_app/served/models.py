"""The models of one server, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from serve_app.served.refusals import RefusedError
from serve_app.served.service import ModelService
from t5enc.errors import ConfigError


class Models(Mapping[str, ModelService]):
    """Names to services, in the order given; the first serves requests that name none."""

    def __init__(self, services: Sequence[ModelService]) -> None:
        """ConfigError for no model at all, or two of one name."""
        names = [service.name for service in services]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"models: expected at least one, and names that differ, got {names}")
        self._services = dict(zip(names, services, strict=True))
        self.default = services[0]

    def __getitem__(self, name: str) -> ModelService:
        return self._services[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)

    def find(self, name: str | None) -> ModelService:
        """The model of that name, or the default; RefusedError (404) for a name that is not served."""
        if name is None:
            return self.default
        if name not in self._services:
            message = f"model: expected one of {', '.join(self)}, got {name!r}"
            raise RefusedError(404, "Validation", message, field="model", code="model_not_found")
        return self._services[name]
