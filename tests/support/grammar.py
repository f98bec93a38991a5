"""Queries as PostgreSQL's own grammar reads them: what they touch, what binds it to the caller, mutants without that.

The parser is PostgreSQL's, by way of pglast. Queries are given as the server gets them, with ``$1 …``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pglast import ast, enums, parse_sql
from pglast.parser import scan
from pglast.stream import RawStream
from pglast.visitors import Visitor

from service.db.loading import USER_TABLES, QueryText

FUNCTION_NAMES = {"coalesce", "extract", "greatest", "least", "nullif", "session_user"}
"""The grammar has them as keywords; a reader takes them for functions."""


def statement(text: str) -> Any:
    """The one statement of the text."""
    (raw,) = parse_sql(text)
    return raw.stmt


def parameter_number(query: QueryText) -> int | None:
    """Which ``$n`` stands for the parameter user_id."""
    names = list(query.parameters)
    return names.index("user_id") + 1 if "user_id" in names else None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A place where a statement names a user's table."""

    table: str
    alias: str
    bound: bool
    """Whether only rows of the caller can come from, or get into, it."""


# Walking


def children(node: Any) -> Iterator[Any]:
    """The nodes right below this one, in whatever lists and tuples they stand."""
    values = [getattr(node, name) for name in node] if isinstance(node, ast.Node) else node
    for value in values:
        if isinstance(value, ast.Node):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in children(value) if item is not None)


def descendants(node: Any) -> Iterator[Any]:
    """The node and every node below it."""
    yield node
    for child in children(node):
        yield from descendants(child)


def within(node: Any) -> Iterator[Any]:
    """The node and those below it, but for what belongs to a statement of its own (sub-selects)."""
    yield node
    for child in children(node):
        if not isinstance(child, ast.SelectStmt):
            yield from within(child)


def conjuncts(condition: Any) -> Iterator[Any]:
    """The conditions that all have to hold."""
    if isinstance(condition, ast.BoolExpr) and condition.boolop == enums.BoolExprType.AND_EXPR:
        for argument in condition.args:
            yield from conjuncts(argument)
    elif condition is not None:
        yield condition


# What binds a table to the caller


def references(text: str, user: int | None) -> list[Reference]:
    """Every place where the statement names a user's table; ``$user`` stands for the caller's id."""
    return list(_references(statement(text), user, frozenset()))


def _references(node: Any, user: int | None, names: frozenset[str]) -> Iterator[Reference]:
    """``names`` are those of the WITH queries in sight, which are no tables."""
    if isinstance(node, ast.SelectStmt | ast.UpdateStmt | ast.DeleteStmt | ast.InsertStmt) and node.withClause:
        names |= {query.ctename for query in node.withClause.ctes}
    if isinstance(node, ast.SelectStmt | ast.UpdateStmt | ast.DeleteStmt):
        yield from _of_scope(node, user, names)
    elif isinstance(node, ast.InsertStmt) and node.relation.relname in USER_TABLES:
        table = node.relation.relname
        yield Reference(table, table, _inserts_own_rows(node, user))
    for child in children(node):
        yield from _references(child, user, names)


def _of_scope(node: Any, user: int | None, names: frozenset[str]) -> Iterator[Reference]:
    """The tables in FROM (USING) of one statement, and the one it changes."""
    sources = list(node.fromClause or ()) if not isinstance(node, ast.DeleteStmt) else list(node.usingClause or ())
    if not isinstance(node, ast.SelectStmt):
        sources.append(node.relation)
    conditions = list(conjuncts(node.whereClause))
    optional: dict[str, list[Any]] = {}  # what has to hold of a row that a LEFT JOIN adds
    tables: dict[str, str] = {}
    others = 0
    for source in sources:
        for found in within(source):
            if isinstance(found, ast.JoinExpr):
                if found.jointype == enums.JoinType.JOIN_INNER:
                    conditions += conjuncts(found.quals)
                elif found.jointype == enums.JoinType.JOIN_LEFT and isinstance(found.rarg, ast.RangeVar):
                    optional[_alias(found.rarg)] = list(conjuncts(found.quals))
            elif isinstance(found, ast.RangeVar) and found.relname not in names:
                if found.relname in USER_TABLES:
                    tables[_alias(found)] = found.relname
                else:
                    others += 1
            elif isinstance(found, ast.RangeSubselect | ast.RangeFunction | ast.RangeVar):
                others += 1
    alone = next(iter(tables)) if len(tables) == 1 and not others else None
    bound = {
        alias
        for alias, table in tables.items()
        if any(_binds(c, alias, table, alone, user) for c in (*conditions, *optional.get(alias, ())))
    }
    while True:  # what is joined to a bound table by its owner is bound too
        pairs = [pair for condition in conditions if (pair := _same_owner(condition, tables))]
        more = {one for pair in pairs for one in pair if bound & set(pair)} - bound
        if not more:
            break
        bound |= more
    for alias, table in tables.items():
        yield Reference(table, alias, alias in bound)


def _alias(table: Any) -> str:
    return table.alias.aliasname if table.alias else table.relname


def columns_not_null(text: str) -> set[str]:
    """The columns of which a SELECT's WHERE says that they are not null."""
    root = statement(text)
    conditions = conjuncts(root.whereClause) if isinstance(root, ast.SelectStmt) else ()
    return {
        name[1]
        for condition in conditions
        if isinstance(condition, ast.NullTest)
        and condition.nulltesttype == enums.NullTestType.IS_NOT_NULL
        and (name := _column(condition.arg))
    }


def _binds(condition: Any, alias: str, table: str, alone: str | None, user: int | None) -> bool:
    """``user_id = $user``, ``assigned_to = $user``, or one OR the other; of users, ``id = $user``."""
    if isinstance(condition, ast.BoolExpr) and condition.boolop == enums.BoolExprType.OR_EXPR:
        return all(_binds(argument, alias, table, alone, user) for argument in condition.args)
    columns = {"users": {"id"}, "todos": {"user_id", "assigned_to"}}.get(table, {"user_id"})
    aliases = {alias, ""} if alone else {alias}
    sides = _equal_sides(condition)
    return any(_is_parameter(side, user) for side in sides) and any(
        name[0] in aliases and name[1] in columns for name in map(_column, sides) if name
    )


def _same_owner(condition: Any, tables: dict[str, str]) -> tuple[str, str] | None:
    """The two tables that the condition joins by their owner."""
    sides = [_column(side) for side in _equal_sides(condition)]
    found = [name[0] for name in sides if name and name[1] == ("id" if tables.get(name[0]) == "users" else "user_id")]
    return (found[0], found[1]) if len(found) == 2 and set(found) <= tables.keys() else None


def _equal_sides(condition: Any) -> tuple[Any, ...]:
    if (
        isinstance(condition, ast.A_Expr)
        and condition.kind == enums.A_Expr_Kind.AEXPR_OP
        and [name.sval for name in condition.name] == ["="]
    ):
        return condition.lexpr, condition.rexpr
    return ()


def _column(node: Any) -> tuple[str, str] | None:
    """Alias (or "") and name of a column."""
    if isinstance(node, ast.ColumnRef) and all(isinstance(field, ast.String) for field in node.fields):
        names = [field.sval for field in node.fields]
        return ("", names[0]) if len(names) == 1 else (names[-2], names[-1])
    return None


def _is_parameter(node: Any, number: int | None) -> bool:
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, ast.ParamRef) and node.number == number


def _inserts_own_rows(node: Any, user: int | None) -> bool:
    """Whether every row gets the caller's id for its owner, and a row in its way must be the caller's to be changed."""
    owner = "id" if node.relation.relname == "users" else "user_id"
    columns = [column.name for column in node.cols or ()]
    if owner not in columns:
        return False
    place = columns.index(owner)
    if node.selectStmt.valuesLists:
        values = [row[place] for row in node.selectStmt.valuesLists]
    else:
        values = [node.selectStmt.targetList[place].val]
    if node.onConflictClause and node.onConflictClause.action == enums.OnConflictAction.ONCONFLICT_UPDATE:
        infer = node.onConflictClause.infer
        if owner not in {element.name for element in (infer and infer.indexElems) or ()}:
            return False
    return all(_is_parameter(value, user) for value in values)


# Style


def stars(text: str) -> int:
    """How often the statement says ``*`` where it should name columns; INSERT without a list of columns counts too."""
    nodes = list(descendants(statement(text)))
    return sum(isinstance(node, ast.A_Star) for node in nodes) + sum(
        isinstance(node, ast.InsertStmt) and not node.cols for node in nodes
    )


def lower_case_keywords(text: str) -> set[str]:
    """The keywords that aren't written in upper case; a name that is also a keyword (``position``) is none."""
    names = set(FUNCTION_NAMES)
    for node in descendants(statement(text)):
        for name in node:
            value = getattr(node, name)
            values = value if isinstance(value, tuple) else (value,)
            names |= {item.sval for item in values if isinstance(item, ast.String)}
            names |= {item for item in values if isinstance(item, str)}
    names |= {"bigint", "boolean", "integer", "smallint"}  # the grammar's names for int8, bool …
    encoded = text.encode()
    words = {encoded[token.start : token.end + 1].decode() for token in scan(text) if token.kind != "NO_KEYWORD"}
    return {word for word in words if word != word.upper() and word not in names}


# Mutants


class _Stripper(Visitor):
    """Puts TRUE in the place of every comparison with ``$user``."""

    def __init__(self, user: int) -> None:
        super().__init__()
        self.user = user
        self.stripped = 0

    def visit_A_Expr(self, ancestors: Any, node: Any) -> Any:  # noqa: N802 - pglast finds it by the name
        del ancestors
        if _is_parameter(node.lexpr, self.user) or _is_parameter(node.rexpr, self.user):
            self.stripped += 1
            return ast.A_Const(val=ast.Boolean(boolval=True))
        return None


class _Forgetter(Visitor):
    """Puts FALSE in the place of every ``$n IS NULL``, from which no type can be told."""

    def visit_NullTest(self, ancestors: Any, node: Any) -> Any:  # noqa: N802
        del ancestors
        return ast.A_Const(val=ast.Boolean(boolval=False)) if isinstance(node.arg, ast.ParamRef) else None


def without_null_tests(text: str) -> str:
    """The statement without ``$n IS NULL``: the server can tell each parameter's type from the use that is left."""
    root = statement(text)
    _Forgetter()(root)
    return RawStream()(root)


def without_user(text: str, user: int) -> str:
    """The statement with every comparison of anything with ``$user`` taken out."""
    root = statement(text)
    stripper = _Stripper(user)
    stripper(root)
    return RawStream()(root)
