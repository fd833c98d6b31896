"""Bases of the models that cross a border."""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """What a client sends: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """What a server answers or announces: readers ignore fields that they do not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)
