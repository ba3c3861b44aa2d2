"""The spec models and custom resources with the fields of all step kinds: the Step schema of this product."""

from __future__ import annotations

from typing import Final

from perdure.api.custom_resources import resources_with
from perdure.api.spec_models import spec_models
from perdure.steps import KINDS

#: What manifests are parsed with.
MODELS: Final = spec_models(KINDS)
#: What the CRDs and the reference are generated from.
RESOURCES: Final = resources_with(MODELS)
