"""Search: what was said, in all conversations of a user.

No index knows words: under row security PostgreSQL keeps text search out of indexes. So a page looks at so many
messages at most, in the order of their ids, which is that of time, and its cursor leads on.
"""

from uuid import UUID

import msgspec
from litestar import get

from service.contexts import Role
from service.db.queries import Some
from service.http.fields import MessageType, Search, Time, check_search, words_of
from service.http.paging import Page, PageQuery, decode_cursor, page_of
from service.http.recency import LAST_ID
from service.http.request import Request

LOOKED_AT = 2000
"""How many messages a page looks at: of the longest ones that takes a tenth of a second."""


class FoundMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that holds all the words, and where it is; ``snippet`` is what stands around the first of them."""

    id: UUID
    conversation_id: UUID
    position: int
    role: Role
    message_type: MessageType
    snippet: str
    created_at: Time


class MessageSearch(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to look for."""

    q: Search

    def __post_init__(self) -> None:
        check_search(self.q)


_search = Some("search_messages", FoundMessage)


@get("/v1/messages", query=MessageSearch, scope="read")
async def search_messages(request: Request) -> Page[FoundMessage]:
    """The caller's messages that hold all the words, in all conversations, newest first.

    Each page looks at 2,000 messages at most, so it may be short, or empty, while `next_cursor` leads on.
    """
    query = request.filters(MessageSearch)
    question = query.question
    (before_id,) = (LAST_ID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    found = await request.user.run(
        _search(words=words_of(query.q), before_id=before_id, looked_at=LOOKED_AT, row_limit=query.limit + 1)
    )
    return page_of(found.rows, query.limit, question, lambda message: (message.id,), found.last)
