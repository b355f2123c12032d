"""Search spaces, data sets and super-networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.wire.base import Digest, Json, Name, Time, Wire


class SpaceSpec(Wire):
    """What a space is: together these give its digest."""

    plugin: str = Field(description="Name of a `frontier.spaces` plug-in.", examples=["mobilenetv3"])
    options: Json = Field(default_factory=dict, description="The plug-in's options; defaults are filled in.")
    identity: Literal["function", "row"] = Field(
        default="function", description="When two rows are the same architecture: same function, or same row."
    )


class SpaceIn(SpaceSpec):
    """A space under a name."""

    name: Name


class ChoiceOut(Wire):
    """One categorical decision of a space."""

    name: str = Field(description="Name of the choice.")
    options: list[str | int | float] = Field(description="Its options; genes index this list.")


class SpaceOut(SpaceIn):
    """A stored space."""

    digest: str = Field(description="Architecture keys are unique within this digest.")
    choices: list[ChoiceOut] = Field(description="The choices, in the order of the genes.")
    created_at: Time


class DatasetOut(Wire):
    """A data set that some worker has announced, or that a study of a pipeline or table has named."""

    name: str = Field(description="The worker's name for it.")
    digest: Digest = Field(description="SHA-256 over its images, labels and splits.")
    shape: list[int] = Field(description="Shape of one image: channels, height, width.")
    classes: int = Field(description="Number of classes; 0 if no worker has announced it.")
    counts: dict[str, int] = Field(description="Images per split: train, validation, test.")


class Task(Wire):
    """What networks are trained and measured on."""

    dataset: str = Field(
        description="Name of a data set that a worker has announced; any name where no worker reads it (evaluators "
        "`external`, `table`, functions).",
        examples=["digits"],
    )
    digest: Digest | None = Field(default=None, description="Pins its content; filled in if left out.")


class Resources(Wire):
    """What a worker's device must have."""

    device_type: str | None = Field(
        default=None, min_length=1, max_length=20, description="cpu or cuda; any if left out.", examples=["cuda"]
    )
    memory_mb: int | None = Field(default=None, ge=1, le=2**31 - 1, description="Memory of the device, MiB, at least.")


class SupernetIn(Wire):
    """A weight-sharing super-network of a space, to be trained on a task."""

    name: Name
    space: Name
    task: Task
    recipe: Json = Field(default_factory=dict, description="Training recipe: epochs, batch, learning rate ...")
    seed: int = Field(default=0, ge=0, description="Seed of initialisation, order and sampling.")
    resources: Resources = Field(default_factory=Resources, description="What its training needs.")


class SupernetOut(SupernetIn):
    """A stored super-network."""

    state: Literal["CREATED", "TRAINING", "READY", "FAILED"] = Field(description="READY: its weights can be used.")
    weights: Digest | None = Field(description="The artifact with its weights, once trained.")
    job: int | None = Field(description="The job that trains it.")
    summary: Json = Field(description="What the training reported at its end.")
    created_at: Time
