"""The oldest PostgreSQL supported: a well chosen part of the suite runs there too, the service's own requests included.

``TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin python -m pytest …`` runs any other part of it there.
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import POSTGRES_15, REPOSITORY

CHOSEN = (
    "tests/database/test_schema.py::test_every_table_has_the_columns_of_the_model",
    "tests/database/test_schema.py::test_a_row_typed_by_hand_needs_no_id_number_position_or_time",
    "tests/database/test_schema.py::test_a_column_takes_what_the_model_allows_and_nothing_else",
    "tests/database/test_schema.py::test_a_status_goes_only_where_the_model_lets_it",
    "tests/database/test_schema.py::test_version_and_updated_at_move_on_a_real_change_only",
    "tests/database/test_schema.py::test_messages_are_numbered_and_counted_on_their_conversation",
    "tests/database/test_schema.py::test_every_insert_update_and_delete_leaves_an_entry",
    "tests/database/test_schema.py::test_counting_a_message_stays_within_its_page",
    "tests/isolation/test_row_security.py::test_a_row_is_seen_and_written_with_its_owner_s_id_alone",
    "tests/api/test_tasks.py::test_what_one_face_makes_and_changes_the_other_shows",
    "tests/api/test_messages.py::test_a_turn_appends_in_order_and_answers_with_the_context",
    "tests/api/test_messages.py::test_messages_are_listed_by_position_both_ways_page_by_page",
    "tests/api/test_conversations.py::test_messages_that_come_and_go_move_the_count_the_version_and_updated_at",
)
"""Rules of the schema, the trail, row security, and a pass through the API: some ten seconds of CPU."""


def test_a_part_of_the_suite_runs_on_the_oldest_postgresql() -> None:
    if not (POSTGRES_15 / "postgres").exists():
        pytest.skip("needs PostgreSQL 15: apt-get install postgresql-15")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *CHOSEN]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["TEST_POSTGRES_BIN"] = str(POSTGRES_15)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
