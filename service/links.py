"""Links: which conversation a todo came from, was changed in or was talked about in."""

from uuid import UUID

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody

from service.db.queries import Looked, Many, Maybe, One, Some, Versioned
from service.http.fields import RelationshipType, Time, changes, values
from service.http.idempotency import idempotent
from service.http.missing import changed, found
from service.http.paging import LOOKED_AT, Page, PageQuery, decode_cursor, page_of
from service.http.recency import LAST_ID
from service.http.request import Request


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


class LinkFilters(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which links; several filters mean all of them together."""

    todo_id: UUID | None = None
    conversation_id: UUID | None = None
    relationship_type: RelationshipType | None = None


_get = Maybe("get_link", Versioned[Link])
CREATE = One("create_link", Versioned[Link])
_update = Maybe("update_link", Versioned[Link])
_delete = Maybe("delete_link", UUID)
_list = Some("list_links", Link)
_list_of_todo = Many("list_links_of_todo", Link)
_list_of_conversation = Many("list_links_of_conversation", Link)


@get("/v1/links", query=LinkFilters, scope="read")
async def list_links(request: Request) -> Page[Link]:
    """The caller's links, newest first.

    With `relationship_type` alone, each page looks at 5000 links at most, so it may be short, or empty, while
    `next_cursor` leads on.
    """
    query = request.filters(LinkFilters)
    question = query.question
    (after_id,) = (LAST_ID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    page = {"relationship_type": query.relationship_type, "after_id": after_id, "row_limit": query.limit + 1}
    if query.todo_id is None and query.conversation_id is None:
        looked = await request.user.run(_list(looked_at=LOOKED_AT, **page))
    else:
        list_of_one = _list_of_conversation if query.todo_id is None else _list_of_todo
        ends = {"todo_id": query.todo_id, "conversation_id": query.conversation_id}
        looked = Looked(await request.user.run(list_of_one(**ends, **page)), None)
    return page_of(looked.rows, query.limit, question, lambda link: (link.id,), looked.last)


@post("/v1/links", location="/v1/links/{id}", problems=("not_found", "link_exists"), scope="write")
@idempotent
async def create_link(request: Request, data: JSONBody[LinkCreate]) -> Versioned[Link]:
    """Link a todo and a conversation, both the caller's own."""
    return await request.user.run(CREATE(**values(data)))


@get("/v1/links/{link_id:str}", scope="read")
async def get_link(request: Request, link_id: FromPath[UUID]) -> Versioned[Link]:
    """One link."""
    return found(await request.user.run(_get(id=link_id)))


@patch("/v1/links/{link_id:str}", if_match=True, problems=("link_exists",), scope="write")
async def update_link(request: Request, link_id: FromPath[UUID], data: JSONBody[LinkPatch]) -> Versioned[Link]:
    """Change what a link says."""
    change = _update(id=link_id, **changes(data), version=request.if_match)
    return await changed(request.user, change, _get(id=link_id), "link")


@delete("/v1/links/{link_id:str}", if_match=True, scope="write")
async def delete_link(request: Request, link_id: FromPath[UUID]) -> None:
    """Delete a link; the todo and the conversation stay."""
    await changed(request.user, _delete(id=link_id, version=request.if_match), _get(id=link_id), "link")
