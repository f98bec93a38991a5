"""This release on the tables of a later one: after `todochat migrate`, the processes that run go on until they restart.

No release but this one is needed: a migration is made up that does what a later one may do, which is to add.
``TEST_MIGRATIONS=folder python -m pytest …`` runs any other part of the suite on a folder of migrations.
"""

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.commands.migrate import upgrade
from service.db.migration_files import DEFAULT_DIRECTORY, known_ids, load
from tests.conftest import REPOSITORY, Server, user_factory
from tests.support.load import wait_for

EXPANDED = "9999_expand_everything"
EXPAND = f"""\
-- Add to every table, as a later release may.
-- Locks: each of the tables, against everything, for a moment.
-- Rollback loses: what was added.
-- depends: {known_ids()[-1]}
SET LOCAL ROLE todochat_owner;
DO $body$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner = 'todochat_owner' LOOP
        EXECUTE format(
            'ALTER TABLE public.%1$I ADD COLUMN later_text text, ADD COLUMN later_flag boolean NOT NULL DEFAULT false;
            ALTER TABLE public.%1$I ADD CONSTRAINT %2$I CHECK (char_length(later_text) <= 100) NOT VALID;
            ALTER TABLE public.%1$I VALIDATE CONSTRAINT %2$I;
            GRANT INSERT (later_text), UPDATE (later_text) ON public.%1$I TO todochat_app;',
            name, name || '_later_text_check'
        );
    END LOOP;
END
$body$;
CREATE TABLE public.tags (
    user_id uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE, id uuid NOT NULL DEFAULT public.uuid7(),
    todo_id uuid NOT NULL, PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, todo_id) REFERENCES public.todos (user_id, id) ON DELETE CASCADE
);
ALTER TABLE public.tags ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tags_owner ON public.tags USING (user_id = nullif(current_setting('app.user_id', true), '')::uuid);
GRANT SELECT, INSERT, DELETE ON public.tags TO todochat_app;
CREATE INDEX todos_user_id_later_text_idx ON public.todos (user_id, later_text);
CREATE FUNCTION public.later() RETURNS integer LANGUAGE sql AS 'SELECT 1';
"""


ADD_MOONS = f"""\
-- Add moons to todos.
-- depends: {known_ids()[-1]}
SET LOCAL ROLE todochat_owner;
ALTER TABLE public.todos ADD COLUMN moons integer NOT NULL DEFAULT 1;
"""


def with_one_more(folder: Path, migration_id: str, text: str) -> Path:
    """A folder with the migrations of a later release."""
    migrations = folder / "migrations"
    shutil.copytree(DEFAULT_DIRECTORY, migrations)
    (migrations / f"{migration_id}.sql").write_text(text)
    (migrations / f"{migration_id}.rollback.sql").write_text("SELECT 1;")
    assert load(migrations)[-1].id == migration_id
    return migrations


CHOSEN = {
    "audit": ["every_kind_of_row_is_told_with_all_its_columns_and_no_secret"],
    "changes": [
        "the_feed_replayed_gives_the_rows_that_are_there",
        "a_deleted_conversation_comes_back_with_its_messages_and_links",
        "updates_of_messages_links_conversations_and_the_account_are_undone",
    ],
    "conversations": [
        "messages_that_come_and_go_move_the_count_the_version_and_updated_at",
        "the_most_recently_active_conversation_comes_first_page_by_page",
    ],
    "erase": ["other_peoples_rows_are_untouched_but_for_the_unassignment"],
    "export": ["an_export_holds_every_row_in_order_and_says_how_many_there_are"],
    "health": ["liveness_and_readiness_answer_ok", "the_login_that_create_login_makes_is_accepted"],
    "idempotency": ["an_answer_is_given_again_even_when_its_object_is_changed_or_gone"],
    "import": ["what_was_exported_and_erased_comes_back_byte_for_byte"],
    "items": ["a_turn_keeps_items_and_answers_with_them_as_context"],
    "keys": ["a_deleted_key_is_refused_at_once", "the_hour_of_its_last_use_is_noted_by_reads_too"],
    "links": [
        "a_patch_changes_the_type_and_the_etag_guards_it",
        "deleting_a_link_leaves_both_ends_and_deleting_an_end_takes_the_link",
    ],
    "mcp": ["the_five_tools_that_chatbots_know", "a_conversation_is_kept_linked_and_read_back"],
    "messages": [
        "a_patch_changes_what_it_names_and_nothing_of_the_others",
        "messages_are_listed_by_position_both_ways_page_by_page",
        "a_turn_appends_in_order_and_answers_with_the_context",
    ],
    "openai": ["items_are_added_listed_read_and_deleted"],
    "search": ["messages_are_found_in_all_conversations_newest_first"],
    "sign_in": ["changing_the_password_ends_every_token_and_the_old_password"],
    "tasks": ["what_one_face_makes_and_changes_the_other_shows"],
    "todos": [
        "a_batch_creates_updates_and_deletes_in_the_order_it_was_sent",
        "an_assignee_reads_the_todo_and_changes_its_status_and_nothing_else",
    ],
    "users": ["a_user_sees_and_changes_themselves", "whoever_is_deleted_is_taken_off_the_todos_of_others"],
}
"""Of each file of the API's tests some that read and write what it is about."""


def test_this_release_reads_and_writes_every_noun_on_the_tables_of_a_later_one(tmp_path: Path) -> None:
    assert CHOSEN.keys() == {
        path.stem.removeprefix("test_") for path in (REPOSITORY / "tests" / "api").glob("test_*.py")
    }
    chosen = [f"tests/api/test_{noun}.py::test_{name}" for noun, names in CHOSEN.items() for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *chosen]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["TEST_MIGRATIONS"] = str(with_one_more(tmp_path, EXPANDED, EXPAND))
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_while_a_later_release_migrates_this_one_goes_on(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """Reads and writes before, during and after; the tables are those of the later release then."""
    folder = with_one_more(tmp_path, "9999_add_moons", ADD_MOONS)
    server = start_server()
    stopped = threading.Event()
    seen: list[tuple[int, Any]] = []

    def work(client: httpx.Client) -> None:
        for number in itertools.count(1):
            made = client.post("/v1/todos", json={"title": f"{number}"})
            changed = client.patch(f"/v1/todos/{number}", json={"status": "completed"})
            listed = client.get("/v1/todos", params={"limit": 1})
            ready = client.get("/health/ready")
            seen.append((listed.json()["items"][0]["number"], [a.status_code for a in (made, changed, listed, ready)]))
            if stopped.is_set():
                return

    with user_factory(server) as make:
        working = threading.Thread(target=work, args=[make().client])
        working.start()
        wait_for(lambda: len(seen) > 5)
        assert upgrade(server.database.owner_url, folder) == ["9999_add_moons"]
        after = len(seen)
        wait_for(lambda: len(seen) > after + 5)
        stopped.set()
        working.join()
    assert seen == [(number, [201, 200, 200, 200]) for number in range(1, len(seen) + 1)]
    assert start_server(database=server.database).stop() == 0, "it starts on them, too"
