"""Changes to studies and trials: of attributes, tags and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from nestor.errors import AttributesTooLarge
from nestor.options.base import about
from nestor.schemas.base import Note, Schema, Tags
from nestor.schemas.storable import MAX_ATTRIBUTES_BYTES, json_bytes, merge_patch


class Patch(Schema):
    """Changes to a study or a trial: a JSON merge patch (RFC 7396). A field that is left out stays as it is."""

    user_attrs: Annotated[
        dict[str, Any] | None,
        about(
            "merged into the attributes, objects key by key; null in place of a value removes its key",
            example={"owner": "ada"},
        ),
    ] = None
    set_user_attrs: Annotated[
        dict[str, Any],
        about(
            "attributes to set as they are: each replaces the whole value of its key, and null is a value",
            example={"owner": {"name": "ada"}},
        ),
    ] = {}
    tags: Annotated[Tags | None, about("replaces all tags; null removes them", example=["baseline"])] = None
    note: Annotated[
        Note | None, about("replaces the note, a text in Markdown; null removes it", example="See *run 7*.")
    ] = None

    def apply(self, user_attrs: dict[str, Any], tags: Sequence[str], note: str) -> dict[str, Any]:
        """The attributes, tags and note after the change, by the names of their fields.

        Raises:
            AttributesTooLarge: the attributes would take more than `MAX_ATTRIBUTES_BYTES`, and more than before. An
                earlier version kept any number, some of which can be removed.
        """
        before = user_attrs
        if "user_attrs" in self.model_fields_set:
            user_attrs = {} if self.user_attrs is None else merge_patch(user_attrs, self.user_attrs)
        user_attrs = user_attrs | self.set_user_attrs
        if user_attrs != before and (size := json_bytes(user_attrs)) > max(MAX_ATTRIBUTES_BYTES, json_bytes(before)):
            raise AttributesTooLarge(option="user_attrs", size=size, limit=MAX_ATTRIBUTES_BYTES)
        tags = (self.tags or ()) if "tags" in self.model_fields_set else tags
        note = (self.note or "") if "note" in self.model_fields_set else note
        return {"user_attrs": user_attrs, "tags": tuple(tags), "note": note}
