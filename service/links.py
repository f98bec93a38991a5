"""Links: which conversation a todo came from, was changed in or was talked about in."""

from uuid import UUID

import msgspec

from service.db.queries import Caller, Many, Maybe, One, Statement, Tagged
from service.http.fields import RelationshipType, Time
from service.http.paging import Cursor, Limit, Page, decode_cursor, page_of
from service.problems import Problem


class Link(msgspec.Struct, frozen=True, gc=False):
    """A link between a todo and a conversation of the same user."""

    id: UUID
    user_id: UUID
    todo_id: UUID
    conversation_id: UUID
    relationship_type: RelationshipType
    created_at: Time


class LinkCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link to be made: one for each todo, conversation and type."""

    todo_id: UUID
    conversation_id: UUID
    relationship_type: RelationshipType = "discussion"


class LinkPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a link can be changed: its ends can't."""

    relationship_type: RelationshipType | msgspec.UnsetType = msgspec.UNSET


class LinkFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which links; several filters mean all of them together."""

    todo_id: UUID | None = None
    conversation_id: UUID | None = None
    relationship_type: RelationshipType | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


_get = Maybe("get_link", Tagged[Link])
_create = One("create_link", Tagged[Link])
_update = Maybe("update_link", Tagged[Link])
_delete = Maybe("delete_link", UUID)
_list = Many("list_links", Link)
_list_of_todo = Many("list_links_of_todo", Link)
_list_of_conversation = Many("list_links_of_conversation", Link)

_LAST = UUID(int=(1 << 128) - 1)


async def list_links(caller: Caller, query: LinkFilters) -> Page[Link]:
    """The caller's links, newest first."""
    question = msgspec.structs.replace(query, cursor=None, limit=1)
    (after_id,) = (_LAST,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    page = {"relationship_type": query.relationship_type, "after_id": after_id, "row_limit": query.limit + 1}
    statement: Statement[list[Link]]
    if query.todo_id is not None:
        statement = _list_of_todo(todo_id=query.todo_id, conversation_id=query.conversation_id, **page)
    elif query.conversation_id is not None:
        statement = _list_of_conversation(conversation_id=query.conversation_id, **page)
    else:
        statement = _list(**page)
    return page_of(await caller.run(statement), query.limit, question, lambda link: (link.id,))


async def create_link(caller: Caller, data: LinkCreate) -> Tagged[Link]:
    """Link a todo and a conversation, both the caller's own."""
    return await caller.run(
        _create(todo_id=data.todo_id, conversation_id=data.conversation_id, relationship_type=data.relationship_type)
    )


async def get_link(caller: Caller, link_id: UUID) -> Tagged[Link]:
    """One link."""
    link = await caller.run(_get(id=link_id))
    if link is None:
        raise Problem("not_found")
    return link


async def update_link(caller: Caller, link_id: UUID, data: LinkPatch, if_match: int | None) -> Tagged[Link]:
    """Change what a link says."""
    kind = None if data.relationship_type is msgspec.UNSET else data.relationship_type
    link = await caller.run(_update(id=link_id, relationship_type=kind, version=if_match))
    if link is None:
        raise await _why_none(caller, link_id)
    return link


async def delete_link(caller: Caller, link_id: UUID, if_match: int | None) -> None:
    """Delete a link; the todo and the conversation stay."""
    if await caller.run(_delete(id=link_id, version=if_match)) is None:
        raise await _why_none(caller, link_id)


async def _why_none(caller: Caller, link_id: UUID) -> Problem:
    """Why a change found no row: there is none, or it has moved on."""
    try:
        link = await get_link(caller, link_id)
    except Problem as problem:
        return problem
    return Problem("version_mismatch", f"The link is at version {link.version}.")
