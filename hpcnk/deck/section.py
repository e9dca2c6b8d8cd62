"""What all sections of a deck are."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of the deck: frozen, with no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def none_as_text(value: object) -> object:
    """Take the word `none`, which is text in YAML, for none."""
    return None if value == "none" else value
